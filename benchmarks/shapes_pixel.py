"""What `shapes-pixel` is worth: denoising at each noise level, blind or not, and its draws.

    python benchmarks/shapes_pixel.py [--model FOLDER] [--drawings 64]

On drawings of combinations that training never saw. Writes docs/benchmarks/shapes_pixel.md and
docs/images/shapes_pixel.png: noisy drawings, the same denoised, and draws.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from report import machine, write_report
from torch import Tensor

from sdstoolkit import Prior, load
from sdstoolkit.images import grid, write_image
from sdstoolkit.rng import generators, normal
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.toy import data
from sdstoolkit.tweedie import denoise_image

PICTURES = Path(__file__).parents[1] / "docs" / "images"
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # in units of the image, [0, 1]


def psnr(x: Tensor, image: Tensor) -> float:
    return float(-10 * (x - image).square().mean().log10())


def gains(prior: Prior, image: Tensor) -> tuple[list[dict[str, str]], list[Tensor]]:
    rows, shown = [], []
    rng = torch.Generator().manual_seed(1)
    for sigma in SIGMAS:
        noisy = image + sigma * torch.randn(image.shape, generator=rng)
        known, blind = denoise_image(prior, noisy, sigma), denoise_image(prior, noisy)
        rows.append(
            {
                "sigma": f"{sigma:g}",
                "noisy, dB": f"{psnr(noisy, image):.2f}",
                "denoised, dB": f"{psnr(known.x_0, image):.2f}",
                "blind, dB": f"{psnr(blind.x_0, image):.2f}",
                "sigma found": f"{float(blind.sigma.mean()):.3f}",
            }
        )
        print(rows[-1], flush=True)
        shown += [noisy[:8], known.x_0[:8]]
    return rows, shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes-pixel")
    parser.add_argument("--drawings", type=int, default=64)
    args = parser.parse_args()
    prior, rng = load(args.model), torch.Generator().manual_seed(0)
    scenes = data.draw_scenes(args.drawings, rng, degraded=0.0, unseen=True)
    image = F.avg_pool2d(data.render(scenes, rng), 2)
    rows, shown = gains(prior, image)
    start = time.process_time()
    x = normal(generators(range(24), "sampler"), prior.score.shape)
    with torch.no_grad():
        drawn = prior.codec.decode(DDIM(prior.score, steps=50).sample(24, start=x))
    seconds = (time.process_time() - start) / 24
    write_image(PICTURES / "shapes_pixel.png", grid(torch.cat([*shown, drawn]), columns=8))
    tables = {
        f"Denoising {args.drawings} drawings of unseen combinations, PSNR": rows,
        "Draws, 50 steps of DDIM": [{"drawn": "24", "CPU time an image": f"{seconds:.2f} s"}],
    }
    write_report("shapes_pixel", "Denoising by shapes-pixel", tables, machine())


if __name__ == "__main__":
    main()
