"""The picture at the top of the README: images under score distillation, from first to last step.

python benchmarks/pictures.py
"""

from pathlib import Path

import torch

from sdstoolkit import SDS, Latents, load, optimize, write_image
from sdstoolkit.grids import SqrtAnneal
from sdstoolkit.images import grid
from sdstoolkit.optimization import CosineDecay

PROMPTS = (
    "a red heart on a white background",
    "a large yellow star on a blue background",
    "a green circle on a black background",
    "a blue square left of an orange circle on a white background",
)
STEPS = 300
SHOWN = (0, 20, 40, 70, 110, 160, 220, STEPS)


def main() -> None:
    """Optimise the prompts and write docs/images/optimize.png."""
    prior = load("shapes")
    canvas = Latents(prior, n=len(PROMPTS), seed=0)
    loss = SDS(prior, PROMPTS, scale=7.5, t_law=SqrtAnneal())
    looks = [canvas.image().detach()]
    for step in optimize(canvas, loss, steps=STEPS, lr=CosineDecay(0.1)):
        if step.index + 1 in SHOWN:
            looks.append(canvas.image().detach())
    rows = torch.stack(looks, 1).flatten(0, 1)
    big = rows.repeat_interleave(2, 2).repeat_interleave(2, 3)
    folder = Path(__file__).parents[1] / "docs" / "images"
    write_image(folder / "optimize.png", grid(big, columns=len(SHOWN)))


if __name__ == "__main__":
    main()
