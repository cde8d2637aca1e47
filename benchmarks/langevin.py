"""What Langevin dynamics draws from prompts with `shapes`, as an independent judge sees it.

    python benchmarks/langevin.py [--model shapes] [--captions 128] [--scales 2 3] [--seed 0]

Captions of one object in combinations that training never saw, at most 400 network calls an
image (a guided evaluation counts twice: a conditional and an unconditional row). The samplers
are those of `sds langevin`, annealed Langevin dynamics and predictor-corrector sampling. Shares of
right pictures come with their binomial standard errors. Writes docs/benchmarks/langevin.md and
docs/images/shapes_langevin.png.
"""

import argparse
import time
from pathlib import Path

import torch
from judge import load_judge, mark
from report import machine, write_report
from shapes_quality import shares
from torch import Tensor

from sdstoolkit import AnnealedLangevin, ClassifierFree, PredictorCorrector, Prior, load
from sdstoolkit.images import grid, write_image
from sdstoolkit.samplers._walk import Sampler
from sdstoolkit.samplers.annealed import Fixed
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import data

PICTURES = Path(__file__).parents[1] / "docs" / "images"


class Counted(ScoreModel):
    """A score model that counts its network evaluations a row."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model, self.rows = model, 0
        self.schedule, self.parameterization = model.schedule, model.parameterization
        self.shape = model.shape

    def output(self, x_t: Tensor, level: object, condition: object) -> Tensor:
        self.rows += len(x_t)
        return self.model.output(x_t, level, condition)

    @property
    def dtype(self) -> torch.dtype | None:
        return self.model.dtype


def samplers(model: ScoreModel) -> dict[str, Sampler]:
    """The defaults of `sds langevin`, and others, of 200 guided evaluations at most."""
    return {
        "annealed, 60 levels of 3": AnnealedLangevin(model, levels=60, steps=3),
        "annealed, 99 of 2, r = 0.2": AnnealedLangevin(
            model, levels=99, steps=2, rule=Fixed(0.2)
        ),
        "predictor-corrector, 99 of 1": PredictorCorrector(model, steps=99, corrections=1),
        "predictor-corrector, 60 of 2, snr 0.1": PredictorCorrector(
            model, steps=60, corrections=2, snr=0.1
        ),
    }


@torch.no_grad()
def draw(prior: Prior, sampler: Sampler, captions: list[str], seed: int, batch: int) -> Tensor:
    """One picture a caption, in the model's size."""
    images = []
    for first in range(0, len(captions), batch):
        chunk = captions[first : first + batch]
        x_0 = sampler.sample(len(chunk), prior.condition(chunk), seed + first)
        images.append(prior.codec.decode(x_0).float())
    return torch.cat(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--scales", type=float, nargs="+", default=[3.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    prior, judge = load(args.model), load_judge()
    captions, scenes = data.unseen_captions(args.captions)
    counted, rows, best, kept = Counted(prior.score), [], -1.0, torch.empty(0)
    for scale in args.scales:
        guided = ClassifierFree(counted, prior.condition(""), scale=scale)
        for name, sampler in samplers(guided).items():
            counted.rows, start = 0, time.perf_counter()
            image = draw(prior, sampler, captions, args.seed, args.batch)
            seconds = time.perf_counter() - start
            calls = counted.rows / len(captions)
            if calls > 400:
                raise ValueError(f"{name} took {calls:.0f} network calls an image, at most 400")
            marks = mark(judge.judge(image), scenes)
            rows.append(
                {
                    "sampler": name,
                    "scale": f"{scale:g}",
                    **shares(marks),
                    "calls": f"{calls:.0f}",
                    "s / image": f"{seconds / len(captions):.2f}",
                }
            )
            print(rows[-1], flush=True)
            right = float(marks.joint.float().mean())
            best, kept = max((best, kept), (right, image[:32]), key=lambda pair: pair[0])
    write_image(PICTURES / "shapes_langevin.png", grid(kept, columns=8))
    heading = f"{args.captions} captions of one object, per cent right"
    write_report("langevin", "Langevin dynamics on shapes", {heading: rows}, machine())


if __name__ == "__main__":
    main()
