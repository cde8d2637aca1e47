"""How well SDS draws what it is told on the bundled model, and the sweep behind its defaults.

    python benchmarks/sds_quality.py                   # the defaults, 256 unseen captions
    python benchmarks/sds_quality.py --sweep           # one option at a time, 32 captions

Judged as benchmarks/shapes_quality.py judges DDIM, on the same captions and seeds. Writes
docs/benchmarks/sds_quality.md or docs/benchmarks/sds_sweep.md, and the pictures beside them.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from judge import Judge, load_judge, mark
from report import machine, write_report
from shapes_quality import PICTURES, shares
from torch import Tensor

from sdstoolkit import SDS, Canvas, Latents, Pixels, Prior, load, optimize
from sdstoolkit.distill.weights import AlphaSigmaSquared, Constant, SigmaSquared
from sdstoolkit.grids import LinearAnneal, SqrtAnneal, UniformLaw
from sdstoolkit.images import grid, write_image
from sdstoolkit.optimization import CosineDecay
from sdstoolkit.toy import data

LAWS = {
    "uniform .02-.98": UniformLaw(),
    "uniform .02-.5": UniformLaw(t_max=0.5),
    "uniform .2-.8": UniformLaw(t_min=0.2, t_max=0.8),
    "linear": LinearAnneal(),
    "sqrt": SqrtAnneal(),
}
WEIGHTS = {"sigma^2": SigmaSquared(), "1": Constant(), "alpha sigma^2": AlphaSigmaSquared()}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The options of one run; the defaults are those of `sds optimize`."""

    canvas: str = "latents"
    scale: float = 7.5
    lr: float = 0.1
    decay: float = 0.0  # the last learning rate as a part of the first; 1 is constant
    law: str = "sqrt"
    weight: str = "sigma^2"
    steps: int = 300


CHOICES: dict[str, Sequence[object]] = {
    "canvas": ("pixels",),
    "scale": (5.0, 10.0, 15.0, 30.0),
    "lr": (0.025, 0.05),
    "decay": (0.1, 1.0),
    "law": tuple(LAWS),
    "weight": tuple(WEIGHTS),
    "steps": (150, 600),
}


def canvas_of(prior: Prior, setting: Setting, seeds: Sequence[int]) -> Canvas:
    kind = {"pixels": Pixels, "latents": Latents}[setting.canvas]
    return kind(prior, n=len(seeds), seed=seeds)


def draw(prior: Prior, captions: Sequence[str], setting: Setting, batch: int) -> Tensor:
    """One picture a caption, seed k for caption k, [n, 3, 64, 64]."""
    images = []
    for start in range(0, len(captions), batch):
        chunk = list(captions[start : start + batch])
        seeds = list(range(start, start + len(chunk)))
        loss = SDS(
            prior,
            chunk,
            scale=setting.scale,
            weight=WEIGHTS[setting.weight],
            t_law=LAWS[setting.law],
        )
        canvas = canvas_of(prior, setting, seeds)
        rate = CosineDecay(setting.lr, final=setting.decay)
        for _ in optimize(canvas, loss, steps=setting.steps, lr=rate):
            pass
        with torch.no_grad():
            images.append(canvas.image())
    return torch.cat(images)


def row(
    prior: Prior, judge: Judge, n: int, setting: Setting, batch: int
) -> tuple[dict[str, str], Tensor]:
    """What the judge says of n pictures, and the pictures."""
    captions, scenes = data.unseen_captions(256)
    captions, scenes = captions[:n], scenes[slice(0, n)]
    started = time.perf_counter()
    image = draw(prior, captions, setting, batch)
    seconds = (time.perf_counter() - started) / n
    ends = ((image < 0.02) | (image > 0.98)).float().mean()
    marks = shares(mark(judge.judge(image), scenes))
    marks.pop("relation")
    named = {f.name: f"{getattr(setting, f.name)}" for f in fields(Setting)}
    return {**named, **marks, "at the ends": f"{ends:.1%}", "s / image": f"{seconds:.2f}"}, image


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--captions", type=int)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    prior, judge, base = load(args.model), load_judge(), Setting()
    settings = [base]
    if args.sweep:
        settings += [
            replace(base, **{name: value})
            for name, values in CHOICES.items()
            for value in values
            if value != getattr(base, name)
        ]
    n = args.captions or (32 if args.sweep else 256)
    rows, pictures = [], []
    for setting in settings:
        said, image = row(prior, judge, n, setting, args.batch)
        print(said, flush=True)
        rows.append(said)
        pictures.append(image[: 8 if args.sweep else 64])
    name = "sds_sweep" if args.sweep else "sds_quality"
    write_image(PICTURES / f"{name}.png", grid(torch.cat(pictures).clamp(0, 1), columns=8))
    write_report(
        name,
        "SDS on the bundled model" + (", one option at a time" if args.sweep else ""),
        {f"The first {n} unseen one-object captions, per cent right": rows},
        machine(),
    )


if __name__ == "__main__":
    main()
