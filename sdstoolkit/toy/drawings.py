"""A data set of drawings: made once from a seed, then kept in one file."""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sdstoolkit.toy import data
from sdstoolkit.toy.training import save_tensors


@dataclass(frozen=True)
class Drawings:
    """The data set: uint8 images [n, 3, 64, 64] and the scenes they show."""

    images: Tensor
    scenes: data.Scenes

    def pictures(self, rows: Tensor | slice) -> Tensor:
        """The images of some rows, float32 in [0, 1]."""
        return self.images[rows].float() / 255


def drawings(
    n: int, *, seed: int = 0, degraded: float = 0.2, file: Path | None = None
) -> Drawings:
    """Draw n scenes, or read them back from the file that an earlier call wrote.

    Args:
        n: How many, at least 1.
        seed: Names the data set.
        degraded: Share of damaged pictures, in [0, 1].
        file: Where the data set is kept; None keeps it nowhere.
    """
    if file is not None and file.exists():
        tensors = load_file(file)
        images = tensors.pop("image")
        return Drawings(images, data.Scenes(**tensors))
    from tqdm import tqdm

    rng = torch.Generator().manual_seed(seed)
    scenes, images = [], []
    for start in tqdm(range(0, n, 512), "drawings"):
        scenes.append(data.draw_scenes(min(512, n - start), rng, degraded=degraded))
        images.append((data.render(scenes[-1], rng) * 255).round().byte())
    made = Drawings(torch.cat(images), data.Scenes.cat(scenes))
    if file is not None:
        columns = {f.name: getattr(made.scenes, f.name) for f in fields(data.Scenes)}
        save_tensors(file, {"image": made.images, **columns}, {"seed": str(seed)})
    return made
