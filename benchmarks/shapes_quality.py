"""How well the bundled model draws what it is told, as an independent judge sees it.

    python benchmarks/shapes_quality.py [--model FOLDER] [--scales 1 2 3 5 8] [--captions 256]

256 captions of one object and 128 of two, all of combinations that training never saw, are
sampled by 50-step DDIM; shares of right pictures come with their binomial standard errors. The
autoencoder's PSNR is measured on held-out drawings. Writes docs/benchmarks/shapes_quality.md.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from judge import Judge, Marks, accuracy, load_judge, mark
from report import machine, per_cent, write_report
from torch import Tensor

from sdstoolkit import ClassifierFree, Prior, load
from sdstoolkit.images import grid, write_image
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.toy import data

PICTURES = Path(__file__).parents[1] / "docs" / "images"


@torch.no_grad()
def draw(prior: Prior, captions: Sequence[str], scale: float, steps: int = 50) -> Tensor:
    """One picture a caption, seed k for caption k, [n, 3, 64, 64]."""
    model, images = ClassifierFree(prior.score, prior.condition(""), scale=scale), []
    for start in range(0, len(captions), 64):
        chunk = captions[start : start + 64]
        x_0 = DDIM(model, steps=steps).sample(len(chunk), prior.condition(chunk), seed=start)
        images.append(prior.codec.decode(x_0))
    return torch.cat(images)


def shares(marks: Marks) -> dict[str, str]:
    """Each share with its binomial standard error, in per cent."""
    return {name: per_cent(right) for name, right in marks._asdict().items()}


def reconstruction(prior: Prior, n: int = 512) -> dict[str, float]:
    """Mean PSNR of the codec in dB on held-out drawings: all, undamaged and damaged ones."""
    rng = torch.Generator().manual_seed(4242)
    scenes = data.draw_scenes(n, rng)
    image = data.render(scenes, rng)
    with torch.no_grad():
        x_hat = torch.cat([prior.codec.decode(prior.codec.encode(x)) for x in image.split(64)])
    db = -10 * (x_hat.clamp(0, 1) - image).square().flatten(1).mean(1).log10()
    clean = scenes.quality == data.CLEAN
    return {
        "all": float(db.mean()),
        "clean": float(db[clean].mean()),
        "damaged": float(db[~clean].mean()),
    }


def sweep(
    prior: Prior, judge: Judge, scales: Sequence[float], captions: int, pairs: int
) -> tuple[list[dict[str, str]], list[dict[str, str]], Tensor]:
    """Rows of the two tables and the pictures of the first captions at the best scale."""
    one, one_scenes = data.unseen_captions(captions)
    two, two_scenes = data.unseen_captions(pairs, pairs=True)
    singles, doubles, best, kept = [], [], -1.0, torch.empty(0)
    for scale in scales:
        started = time.perf_counter()
        image = draw(prior, one, scale)
        seconds = time.perf_counter() - started
        marks = mark(judge.judge(image), one_scenes)
        singles.append(
            {"scale": f"{scale:g}", **shares(marks), "s / image": f"{seconds / captions:.2f}"}
        )
        both = draw(prior, two, scale)
        double = mark(judge.judge(both), two_scenes)
        doubles.append({"scale": f"{scale:g}", **shares(double)})
        print(singles[-1], doubles[-1], sep="\n", flush=True)
        if float(marks.joint.float().mean()) > best:
            best, kept = float(marks.joint.float().mean()), torch.cat([image[:32], both[:16]])
    return singles, doubles, kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=128)
    args = parser.parse_args()
    prior, judge = load(args.model), load_judge()
    read = accuracy(judge)
    print("judge:", read, flush=True)
    db = reconstruction(prior)
    print("codec:", db, flush=True)
    singles, doubles, kept = sweep(prior, judge, args.scales, args.captions, args.pairs)
    write_image(PICTURES / "shapes_ddim.png", grid(kept, columns=8))
    write_report(
        "shapes_quality",
        "What the bundled model draws",
        {
            f"{args.captions} captions of one object, per cent right": singles,
            f"{args.pairs} captions of two objects, per cent right": doubles,
            "The codec on 512 held-out drawings, mean PSNR in dB": [
                {k: f"{v:.1f}" for k, v in db.items()}
            ],
            "The judge on 4096 held-out drawings, share right": [
                {k: f"{v:.2%}" for k, v in read.items()}
            ],
        },
        machine(),
    )


if __name__ == "__main__":
    main()
