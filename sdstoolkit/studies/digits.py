"""What an NCSN of handwritten digits can do: what it draws, how it denoises, what it finds odd.

    gain = 10 log10(|y - x_0|^2 / |x_0_hat - x_0|^2) dB,   anomaly = sigma^2 |s(x)|^2 / D
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sdstoolkit import images
from sdstoolkit.samplers.annealed import AnnealedLangevin, Fixed
from sdstoolkit.score import ScoreModel
from sdstoolkit.statistics import anomaly, roc_auc
from sdstoolkit.toy import cards
from sdstoolkit.toy.digits import STEPS, Digits, Reader, digits, inception_score, train_digits
from sdstoolkit.toy.score_network import save_score
from sdstoolkit.toy.training import History, Track
from sdstoolkit.tweedie import denoise

__all__ = ["Study", "pictures", "study", "train"]

SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # of noise, in units of x_0 = 2 image - 1
LEVELS = 40  # of the annealing; on 20 a level starts 40 % wider than it ends, and digits get lost
ANOMALY_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8)


class Study(NamedTuple):
    """What was found: tables by heading, the figures that count by name, and the draws."""

    tables: dict[str, list[dict[str, str]]]
    figures: dict[str, float]
    draws: Tensor


def study(
    model: ScoreModel,
    learnt: Digits,
    kept: Digits,
    *,
    draws: int = 200,
    levels: int = LEVELS,
    steps: int = 10,
    seed: int = 0,
) -> Study:
    """Judge draws by annealed Langevin dynamics, denoising, and the anomaly score.

    The classifier and the anomaly score's noise level are chosen on the digits to learn from, and
    judged on those held out. Costs draws (levels steps + 1) network evaluations and some thousand.

    Args:
        model: a score of 8 x 8 images, x_0 = 2 image - 1.
        learnt: the digits that it learnt from.
        kept: those held out.
        draws: how many are drawn.
        levels: of the annealing.
        steps: Langevin steps at each level.
        seed: of the first draw.
    """
    read = Reader(learnt)
    sampler = AnnealedLangevin(model, levels=levels, steps=steps, rule=Fixed(0.2))
    x_0 = sampler.sample(draws, seed=seed)
    drawn = (x_0 + 1) / 2
    noise = torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rows, figures = [], dict[str, float]()
    for name, image in (("draws", drawn), ("held-out digits", kept.images), ("noise", noise)):
        p = read(image)
        best, which = p.max(1)
        found = {
            "above 0.9": float((best > 0.9).double().mean()),
            "classes": float(which[best > 0.9].unique().numel()),
            "inception score": inception_score(p),
        }
        rows.append({"judged": name} | {key: f"{value:.3g}" for key, value in found.items()})
        figures |= {f"{name}: {key}": value for key, value in found.items()}
    figures["accuracy"] = float((read(kept.images).argmax(1) == kept.labels).double().mean())
    rows[1]["judged"] += f" (accuracy {figures['accuracy']:.3f})"
    gains = _gains(model, kept)
    anomalies = _anomalies(model, learnt, kept)
    figures["smallest gain"] = min(gain for *_, gain in gains)
    figures["smallest AUC"] = min(auc for *_, auc, _ in anomalies)
    tables = {
        "Draws, read by an independent classifier": rows,
        "Denoising held-out digits, PSNR in dB": [
            {"sigma": f"{s:g}", "noisy": f"{a:.2f}", "denoised": f"{b:.2f}", "gain": f"{gain:.2f}"}
            for s, a, b, gain in gains
        ],
        "Anomalies among held-out digits, by the norm of the score": [
            {"against": name, "sigma": f"{s:g}", "ROC-AUC": f"{auc:.4f} +- {error:.4f}"}
            for name, s, auc, error in anomalies
        ],
    }
    return Study(tables, figures, drawn)


@torch.no_grad()
def _gains(model: ScoreModel, kept: Digits) -> list[tuple[float, float, float, float]]:
    """sigma, the PSNR before and after, and the gain."""
    x_0, rng, rows = 2 * kept.images - 1, torch.Generator().manual_seed(2), []
    for s in SIGMAS:
        y = x_0 + s * torch.randn(x_0.shape, generator=rng)
        errors = (float((v - x_0).square().mean()) for v in (y, denoise(model, y, s).x_0))
        before, after = (10 * math.log10(4 / error) for error in errors)
        rows.append((s, before, after, after - before))
    return rows


@torch.no_grad()
def _anomalies(
    model: ScoreModel, learnt: Digits, kept: Digits
) -> list[tuple[str, float, float, float]]:
    """What the digits are told from, the sigma, the ROC-AUC and its standard error."""

    def norms(image: Tensor, sigma: float) -> Tensor:
        t = float(model.schedule.time(-2 * math.log(sigma)))
        return anomaly(lambda x: model(x, t).score, 2 * image - 1, sigma)

    rng, rows = torch.Generator().manual_seed(3), []
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "inverted digits": lambda image: 1 - image,
        "uniform noise": lambda image: torch.rand(image.shape, generator=rng),
    }
    known = {s: norms(learnt.images, s) for s in ANOMALY_SIGMAS}
    for name, other in others.items():
        at = {s: roc_auc(known[s], norms(other(learnt.images), s)).value for s in ANOMALY_SIGMAS}
        best = max(ANOMALY_SIGMAS, key=lambda s: float(at[s]))
        auc = roc_auc(norms(kept.images, best), norms(other(kept.images), best))
        rows.append((name, best, float(auc.value), float(auc.error)))
    return rows


def pictures(
    open_file: Callable[[str], AbstractContextManager[Path]], model: ScoreModel, found: Study
) -> None:
    """Draw digits.png, the first hundred draws, and annealing.png, how eight of them came to be.

    Args:
        open_file: of a name in the folder, a context with the path to write at.
        model: the score.
        found: what `study` returned.
    """
    with open_file("digits.png") as path:
        images.write_image(path, images.grid(_large(found.draws[:100]), columns=10))
    sampler = AnnealedLangevin(model, levels=LEVELS, steps=10, rule=Fixed(0.2))
    states = list(sampler.steps(8))[1::5]
    with open_file("annealing.png") as path:
        images.write_image(path, images.strip([_large((x + 1) / 2) for x in states]))


def train(
    run: Path,
    out: Path,
    *,
    steps: int = STEPS,
    draws: int = 200,
    seed: int = 0,
    track: Track | None = None,
) -> tuple[dict[str, History], str]:
    """Train an NCSN of digits, judge it, and leave the network and its pictures in a folder.

    Args:
        run: where the checkpoint is kept; a stopped run goes on from there.
        out: the folder of the network, which `load` opens.
        steps: of 128 digits.
        draws: how many are judged.
        seed: names the run.
        track: told the loss and the learning rate as they come.

    Returns:
        The history of its one stage by name, and the model card.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    learnt, kept = digits()
    file = run / "ncsn.safetensors"
    model, history = train_digits(learnt, steps=steps, seed=seed, checkpoint=file, track=track)
    found = study(model, learnt, kept, draws=draws)
    save_score(out, model)
    pictures(lambda name: nullcontext(out / name), model, found)
    what = (
        "The score of handwritten digits of 8 x 8 pixels, at noise levels from 12 down to 0.02 in"
        f" units of x_0 = 2 image - 1: an NCSN trained by `sds train digits`, seed {seed}, on 1297"
        " of scikit-learn's digits; 500 were held out."
    )
    tables = {heading: cards.table(rows) for heading, rows in found.tables.items()}
    for heading, text in tables.items():
        print(f"{heading}\n\n{text}\n")
    return {"ncsn": history}, cards.score("digits", what, {"ncsn": history}, tables)


def _large(image: Tensor) -> Tensor:
    return image.clamp(0, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
