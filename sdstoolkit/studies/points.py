"""What annealed sampling does to points in the plane, in five pictures.

    score_field.png   the score, one or several side by side, as arrows over the density
    trajectories.png  where some of the points went
    annealing.png     the cloud at some of the noise levels
    langevin.gif      the cloud at all of them
    moments.png       mean and variance at each level, and those of the exact law there

The states of a sampler are taken in the scale of x_0, y = x_t / alpha, whose law at the ratio
r = sigma / alpha has the mean of the data and their variance + r^2.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from sdstoolkit import plots
from sdstoolkit.noise import VE
from sdstoolkit.prediction import Karras
from sdstoolkit.samplers.annealed import AnnealedLangevin, Fixed
from sdstoolkit.samplers.predictor_corrector import PredictorCorrector
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import cards
from sdstoolkit.toy.empirical import Empirical
from sdstoolkit.toy.mixture import Mixture
from sdstoolkit.toy.mlp import MLPScore
from sdstoolkit.toy.mlp import train as train_score
from sdstoolkit.toy.points import POINTS
from sdstoolkit.toy.score_network import save_score
from sdstoolkit.toy.training import History, Track

__all__ = ["LAWS", "SCHEDULE", "Plane", "draw", "law", "portrait", "relative_error", "train"]

SCHEDULE = VE(sigma_min=0.02, sigma_max=10.0)
LAWS = (*POINTS, "mixture")
LEARNT_AT = 0.2  # sigma of the fields that are drawn side by side
MOMENTS_FROM = 100_000  # draws that stand for the exact law

Open = Callable[[str], AbstractContextManager[Path]]
Field = Callable[[Tensor], Tensor]
Plane = Empirical | Mixture


def law(name: str) -> Plane:
    """A law in the plane whose score is exact at every noise level.

    Args:
        name: one of `LAWS`: 500 points under a blur of 0.1, or two Gaussians of 0.3 and 0.7.
    """
    if name == "mixture":
        return Mixture([[-2.0, 0.0], [2.0, 1.0]], std=0.3, weights=[0.3, 0.7])
    return Empirical(POINTS[name](500, 0), std=0.1)


def portrait(
    open_file: Open,
    target: Plane,
    states: Sequence[Tensor],
    ladder: Sequence[float],
    *,
    fields: Mapping[str, Field],
    title: str = "",
) -> None:
    """Draw the five pictures.

    Args:
        open_file: Of a name in the folder, a context with the path to write at.
        target: The law of x_0.
        states: Of an annealed sampler, ``[n, 2]`` each: the first, one a level, the last.
        ladder: The ratios sigma / alpha of the levels, in between.
        fields: Scores by name, from ``[n, 2]`` to ``[n, 2]``.
        title: Words above the figures.

    Raises:
        ValueError: Not as many states as levels and two, or not in the plane.
    """
    if len(states) != len(ladder) + 2:
        raise ValueError(
            f"there are {len(states)} states and {len(ladder)} levels, expected two states more "
            "than levels: the first and the last"
        )
    points = target.sample(MOMENTS_FROM, seed=1).double()
    reach = 1.15 * float(points.abs().max())
    noise = torch.tensor([ladder[0], *ladder, 0.0], dtype=torch.float64)
    names = ["start", *(f"sigma = {r:.3g}" for r in ladder), "posterior mean"]
    spread = points.var(0) + noise[:, None] ** 2
    with open_file("score_field.png") as path:
        plots.score_field(path, fields, log_prob=target.log_prob, extent=(-reach, reach))
    late = [k for k, r in enumerate(ladder, 1) if r < reach / 2]
    with open_file("trajectories.png") as path:
        plots.trajectories(path, [states[k] for k in late] + [states[-1]], title=title)
    with open_file("annealing.png") as path:
        plots.annealing_strip(path, states, names=names, title=title)
    with open_file("langevin.gif") as path:
        plots.langevin_animation(
            path, states, names=names, log_prob=target.log_prob, extent=(-reach, reach)
        )
    with open_file("moments.png") as path:
        plots.moments(path, states, mean=points.mean(0), variance=spread, title=title)


def draw(
    open_file: Open,
    target: Plane,
    sampler: AnnealedLangevin | PredictorCorrector,
    n: int,
    *,
    seed: int = 0,
    fields: Mapping[str, Field] | None = None,
    title: str = "",
) -> Tensor:
    """Run a sampler, draw the five pictures, and return how many points fell where.

    Args:
        open_file: Of a name in the folder, a context with the path to write at.
        target: The law of x_0.
        sampler: Of a score model whose alpha is 1, such as under `SCHEDULE`.
        n: Points, two or more.
        seed: Of the first one.
        fields: Scores by name; the target's own by default.
        title: Words above the figures.

    Returns:
        An image, ``[1, 96, 96]``: white where no point fell, black where the most did.
    """
    states = list(sampler.steps(n, seed=seed))
    shown = {"exact": target.score} if fields is None else fields
    portrait(open_file, target, states, sampler.ladder, fields=shown, title=title)
    points = states[-1].detach().cpu().double()
    reach = 1.05 * float(points.abs().max())
    ends = [-reach, reach] * 2
    counts, _ = torch.histogramdd(points.flip(1) * torch.tensor([-1.0, 1.0]), 96, range=ends)
    return (1 - counts / counts.max())[None].float()


@torch.no_grad()
def relative_error(model: ScoreModel, target: Plane, n: int = 4000) -> float:
    """How wrong a learnt posterior mean is, |x_0_hat - E[x_0 | x_t]| / |E[x_0 | x_t]|.

    Root mean squares over n draws at times spread evenly over the schedule. n evaluations.

    Args:
        model: the learnt score.
        target: the law of x_0.
        n: draws.
    """
    exact = target.under(model.schedule, model.parameterization)
    x_0 = target.sample(n, seed=9)
    level = model.schedule.level(torch.linspace(0.001, 0.999, n, dtype=torch.float64), x_0)
    rng = torch.Generator().manual_seed(9)
    x_t = level.perturb(x_0, torch.randn(x_0.shape, generator=rng))
    found, truth = model(x_t, level).x_0, exact(x_t, level).x_0
    return float(((found - truth).square().mean() / truth.square().mean()).sqrt())


def train(
    run: Path,
    out: Path,
    *,
    name: str = "moons",
    steps: int = 3000,
    seed: int = 0,
    track: Track | None = None,
) -> tuple[dict[str, History], str]:
    """Train the score of points in the plane, and draw it beside the exact one.

    Args:
        run: Where the checkpoint is kept; a stopped run goes on from there.
        out: The folder of the network, which `toy.open_score` opens.
        name: One of `LAWS`.
        steps: Of 256 points.
        seed: Names the run.
        track: Told the loss and the learning rate as they come.

    Returns:
        The history of its one stage by name, and the model card.
    """
    target = law(name)
    network = MLPScore(2, SCHEDULE, Karras(sigma_data=1.0), seed=seed)
    data, file = target.sample(20_000, seed=seed), run / "score.safetensors"
    model, history = train_score(
        network, data, steps=steps, seed=seed, checkpoint=file, track=track
    )
    model.eval().requires_grad_(False)
    save_score(out, model)
    t = float(SCHEDULE.time(-2 * math.log(LEARNT_AT)))
    fields = {
        f"learnt, sigma = {LEARNT_AT}": lambda x: model(x, t).score,
        "exact": lambda x: target.under(SCHEDULE)(x, t).score,
    }
    draw(
        lambda file: nullcontext(out / file),
        target,
        AnnealedLangevin(model, levels=40, steps=10, rule=Fixed(0.2)),
        1000,
        seed=seed,
        fields=fields,
        title=f"annealed Langevin dynamics, {name}",
    )
    rows = [{"relative error of x_0": f"{relative_error(model, target):.2%}"}]
    print(cards.table(rows))
    what = (
        f"The score of {name} in the plane, 500 points under a blur of 0.1, at noise levels from"
        f" 10 down to 0.02: a multilayer perceptron trained by `sds train {name}`, seed {seed}."
    )
    tables = {"Against the exact score, over all levels": cards.table(rows)}
    return {"score": history}, cards.score(name, what, {"score": history}, tables)
