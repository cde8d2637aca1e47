"""An independent judge of pictures: what is drawn, in which colour, where, on what.

A plain convolutional classifier, trained on drawings alone, that shares no weight, no code and no
seed with the model it judges. Of two objects it names the left or upper one first.

    python benchmarks/judge.py        # train it (20 minutes on one core), print its accuracy
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from sdstoolkit.toy import data
from sdstoolkit.toy.drawings import Drawings
from sdstoolkit.toy.training import Plan, fast_products, fit, save_tensors

WEIGHTS = Path(__file__).parents[1] / "runs" / "judge.safetensors"


class Verdict(NamedTuple):
    """Indices of :mod:`sdstoolkit.toy.data`, each [n]; slot 0 is the left or upper object."""

    pair: Tensor
    vertical: Tensor
    background: Tensor
    shape: tuple[Tensor, Tensor]
    colour: tuple[Tensor, Tensor]


class Judge(nn.Module):
    """Four halvings, two convolutions each, and one linear map a question; 1.7 M parameters."""

    answers = (2, 2, len(data.COLOURS)) + (len(data.SHAPES),) * 2 + (len(data.COLOURS),) * 2

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            for width, stride in ((before, 2), (after, 1)):
                layers += [nn.Conv2d(width, after, 3, stride, 1, bias=False)]
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3072, 256), nn.ReLU())
        self.heads = nn.Linear(256, sum(self.answers))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits of the seven questions for images in [0, 1], [n, 3, 64, 64]."""
        return self.heads(self.features(2 * image - 1)).split(self.answers, 1)

    @torch.no_grad()
    def judge(self, image: Tensor) -> Verdict:
        """The likeliest answers for images in [0, 1]; what is outside is clipped."""
        parts = [self(chunk) for chunk in image.clamp(0, 1).float().split(256)]
        best = [torch.cat(logits).argmax(1) for logits in zip(*parts, strict=True)]
        return Verdict(best[0] == 1, best[1] == 1, best[2], (best[3], best[4]), (best[5], best[6]))


def truth(scenes: data.Scenes) -> Verdict:
    """What a perfect judge would say of drawings of these scenes."""
    pair = scenes.count == 2
    swap = pair & (scenes.relation % 2 == 1)  # right of, below: the second object comes first
    first, rows = swap.long(), torch.arange(len(scenes))
    shapes = scenes.shape[rows, first], scenes.shape[rows, 1 - first]
    colours = scenes.colour[rows, first], scenes.colour[rows, 1 - first]
    return Verdict(pair, scenes.relation >= 2, scenes.background, shapes, colours)


class Marks(NamedTuple):
    """Which pictures are right, bool [n] each."""

    shape: Tensor
    colour: Tensor
    joint: Tensor
    background: Tensor
    relation: Tensor


def mark(verdict: Verdict, scenes: data.Scenes) -> Marks:
    """Compare with what was asked. Of a pair every object must be right, ``relation`` too."""
    asked = truth(scenes)
    other = ~asked.pair
    shape = (verdict.shape[0] == asked.shape[0]) & (other | (verdict.shape[1] == asked.shape[1]))
    colour = (verdict.colour[0] == asked.colour[0]) & (
        other | (verdict.colour[1] == asked.colour[1])
    )
    count = verdict.pair == asked.pair
    joint = shape & colour & count
    relation = joint & (other | (verdict.vertical == asked.vertical))
    return Marks(shape, colour, joint, verdict.background == asked.background, relation)


def drawn(n: int, seed: int, *, degraded: float = 0.2) -> Drawings:
    """n drawings of every combination, those held out from the generator's training included."""
    rng = torch.Generator().manual_seed(seed)
    scenes = data.Scenes.cat([
        data.draw_scenes(n - n // 4, rng, degraded=degraded),
        data.draw_scenes(n // 4, rng, degraded=degraded, unseen=True),
    ])  # fmt: skip
    images = [data.render(scenes[slice(k, k + 512)], rng) for k in range(0, n, 512)]
    return Drawings((torch.cat(images) * 255).round().byte(), scenes)


def train(steps: int = 10_000, *, count: int = 98_304, batch: int = 128) -> Judge:
    """Fit a judge on its own drawings (seed 777), in bfloat16 where the processor has it."""
    torch.manual_seed(777)
    judge, pictures = Judge().to(memory_format=torch.channels_last), drawn(count, 777)

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(count, (batch,), generator=rng)
        image = pictures.pictures(rows)
        image = image + 0.05 * torch.rand(batch, 1, 1, 1, generator=rng) * torch.randn(
            image.shape, generator=rng
        )
        with fast_products():
            answers = judge(image.contiguous(memory_format=torch.channels_last))
        logits, asked = [each.float() for each in answers], truth(pictures.scenes[rows])
        single = [asked.background, asked.shape[0], asked.colour[0]]
        double = [asked.vertical.long(), asked.shape[1], asked.colour[1]]
        total = F.cross_entropy(logits[0], asked.pair.long())
        for k, target in zip((2, 3, 5), single, strict=True):
            total = total + F.cross_entropy(logits[k], target)
        for k, target in zip((1, 4, 6), double, strict=True):
            each = F.cross_entropy(logits[k], target, reduction="none")
            total = total + (each * asked.pair).sum() / asked.pair.sum().clamp(min=1)
        return total

    fit(judge, loss, Plan(steps=steps, lr=2e-3, ema=0.0, seed=777), name="judge")
    return judge


def load_judge() -> Judge:
    """The judge; trained on first use and kept in runs/."""
    if not WEIGHTS.exists():
        save_tensors(WEIGHTS, train().state_dict(), {})
    judge = Judge()
    judge.load_state_dict(load_file(WEIGHTS))
    return judge.eval()


def accuracy(
    judge: Judge, n: int = 4096, seed: int = 778, *, degraded: float = 0.0
) -> dict[str, float]:
    """Shares of held-out drawings that the judge reads right."""
    pictures = drawn(n, seed, degraded=degraded)
    marks = mark(judge.judge(pictures.pictures(slice(None))), pictures.scenes)
    shares = {name: float(right.float().mean()) for name, right in marks._asdict().items()}
    one = pictures.scenes.count == 1
    return shares | {"joint, one object": float(marks.joint[one].float().mean())}


if __name__ == "__main__":
    for share in (0.0, 1.0):
        figures = accuracy(load_judge(), degraded=share)
        print(f"drawings, {share:.0%} degraded:", {k: f"{v:.2%}" for k, v in figures.items()})
