"""Reconstruction and edits along the flow of the bundled model, as an independent judge sees them.

    python benchmarks/flow_shapes.py [--count 256] [--scales 1 2 3 5 8] [--methods sdedit ...]

Drawings of one object are inverted under their own captions without guidance, 50 steps. The way
back, by the default solver and by the reversible ones, is compared with the codec's own
reconstruction. Red objects become blue ones and hearts become stars, at the scale that did best on
other drawings; the judge (`python benchmarks/judge.py` trains it) says what is right. The
background is everything outside of both objects: the drawn one, the one asked for where it would
be drawn, and at most six pixels more that grow from there in the colour asked for, all wider by
three pixels. With a mask, which is that of the two drawn objects, the outside must be the codec's
to the bit, or the benchmark stops.

About 10 minutes on one core for 256 of each; --count makes it shorter. What was measured is kept
in --run, for this model, and not measured twice. Where `shapes-pixel` is installed, drawings are
weighed by it, in bits a dimension. Writes docs/benchmarks/flow_shapes.md and
docs/images/flow_edits.png.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from judge import WEIGHTS, Judge, load_judge, mark
from report import machine, per_cent, write_report
from shapes_quality import PICTURES
from torch import Tensor
from tqdm import tqdm

from sdstoolkit import ClassifierFree, Prior, ProbabilityFlow, ScoreModel, load, write_image
from sdstoolkit._files import write_atomically
from sdstoolkit.adapters import names
from sdstoolkit.cli import plugin
from sdstoolkit.edit import Edit, PromptSwap, composite, shrink
from sdstoolkit.images import grid
from sdstoolkit.likelihood import dequantize, log_likelihood
from sdstoolkit.pictures import psnr
from sdstoolkit.rng import seeds_of
from sdstoolkit.samplers.inverted import fingerprint
from sdstoolkit.solvers import OBELM, ReversibleHeun
from sdstoolkit.toy import data

COLOUR = {name: k for k, name in enumerate(data.COLOUR_NAMES)}
SHAPE = {name: k for k, name in enumerate(data.SHAPES)}
KINDS = ("red to blue", "heart to star")
WIDER, FARTHEST = 3, 6  # pixels
Row = dict[str, float]


class Edits:
    """Drawings and what they shall become; row i is the same whatever the number of rows.

    Attributes:
        image: the drawings, [n, 3, 64, 64] in [0, 1].
        scenes, wanted: what they show, and what they shall show.
        captions: of both.
        drawn: the place of both objects as they are drawn, bool [n, 1, 64, 64].
    """

    def __init__(self, kind: str, start: int, stop: int, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        pool = data.draw_scenes(24 * stop, rng, pairs=0.0, degraded=0.0)
        colour, background = pool.colour[:, 0], pool.background
        if kind == "red to blue":
            fits = (colour == COLOUR["red"]) & (background != COLOUR["blue"])
        else:
            fits = pool.shape[:, 0] == SHAPE["heart"]
        rows = fits.nonzero()[:, 0]
        if len(rows) < stop:
            raise SystemExit(f"only {len(rows)} drawings of {kind!r} were found, expected {stop}")
        self.scenes = pool[rows[start:stop]]
        new = torch.full_like(self.scenes.colour, COLOUR["blue"])
        other = torch.full_like(self.scenes.shape, SHAPE["star"])
        change = {"colour": new} if kind == "red to blue" else {"shape": other}
        self.wanted = replace(self.scenes, **change)
        self.image = torch.cat([
            data.render(self.scenes[slice(k, k + 1)], torch.Generator().manual_seed(start + k))
            for k in range(stop - start)
        ])  # fmt: skip
        count = range(stop - start)
        self.captions = tuple(
            [data.caption(s, i, sized=True) for i in count] for s in (self.scenes, self.wanted)
        )
        self.drawn = _place(self.scenes) | _place(self.wanted)

    def background(self, edited: Tensor) -> Tensor:
        """Where neither object is, bool [n, 1, 64, 64]."""
        palette = torch.tensor(tuple(data.COLOURS.values()))
        ink, paper = (
            (edited - palette[k][:, :, None, None]).square().sum(1, keepdim=True)
            for k in (self.wanted.colour[:, 0], self.wanted.background)
        )
        region, painted = _wider(self.drawn, 1), ink < paper
        for _ in range(FARTHEST):
            grown = region | (_wider(region, 1) & painted)
            if torch.equal(grown, region):
                break
            region = grown
        return ~_wider(region, WIDER)


def _place(scenes: data.Scenes) -> Tensor:
    white, black = (torch.full_like(scenes.colour, COLOUR[name]) for name in ("white", "black"))
    bare = replace(scenes, colour=white, background=black[:, 0])
    picture = data.render(bare, torch.Generator().manual_seed(0))
    return picture.mean(1, keepdim=True) > 0.2


def _wider(mask: Tensor, pixels: int) -> Tensor:
    return F.max_pool2d(mask.float(), 2 * pixels + 1, 1, pixels) > 0.5


class Bench:
    """What is measured, and where it is kept.

    Args:
        prior: the model.
        judge: who says what is right.
        folder: where results are kept, under the fingerprint of the weights.
        steps: each way.
        batch: rows at a time.
    """

    def __init__(self, prior: Prior, judge: Judge, folder: Path, steps: int, batch: int) -> None:
        self.prior, self.judge, self.steps, self.batch = prior, judge, steps, batch
        self.null = prior.condition("")
        weights = f"{fingerprint(prior.score)[:12]}{fingerprint(prior.codec)[:12]}"
        judged = fingerprint(judge)[:12]
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{weights}-{judged}-{steps}.json"
        self.kept: dict[str, list[Row]] = {}
        if self.path.exists():
            self.kept = json.loads(self.path.read_text(encoding="utf-8"))

    def rows(self, name: str, count: int, measure: Callable[[int, int], list[Row]]) -> list[Row]:
        """Measured rows 0 to count, those that are missing batch after batch."""
        kept = self.kept.setdefault(name, [])
        with tqdm(total=count, initial=min(count, len(kept)), desc=name, mininterval=10) as bar:
            while len(kept) < count:
                found = measure(len(kept), min(count, len(kept) + self.batch))
                kept += found
                write_atomically(self.path, json.dumps(self.kept).encode())
                bar.update(len(found))
        return kept[:count]

    def flow(self, scale: float = 1.0, **options: object) -> ProbabilityFlow:
        model: ScoreModel = self.prior.score
        if scale != 1:
            model = ClassifierFree(model, self.null, scale=scale)
        return ProbabilityFlow(model, steps=self.steps, **options)

    @torch.no_grad()
    def marks(self, edits: Edits, edited: Tensor, name: str = "") -> list[Row]:
        """What the judge says of edits, and how the background fares."""
        marks = mark(self.judge.judge(edited), edits.wanted)
        decibels = psnr(edited.clamp(0, 1).float(), edits.image, edits.background(edited.float()))
        return [
            {
                f"joint{name}": float(marks.joint[i]),
                f"shape{name}": float(marks.shape[i]),
                f"colour{name}": float(marks.colour[i]),
                f"background{name}": float(marks.background[i]),
                f"dB{name}": float(decibels[i].clamp(max=99)),
            }
            for i in range(len(edited))
        ]

    @torch.no_grad()
    def reconstructions(self, start: int, stop: int) -> list[Row]:
        """PSNR of the codec alone and after a round trip by three solvers."""
        edits, codec = Edits(KINDS[0], start, stop, seed=11), self.prior.codec
        x_0 = codec.encode(edits.image)
        condition = self.prior.condition(edits.captions[0])
        found = {"codec": psnr(codec.decode(x_0), edits.image)}
        for name, options in (
            ("default", {}),
            ("ReversibleHeun", {"solver": ReversibleHeun()}),
            ("OBELM", {"solver": OBELM()}),
        ):
            flow = self.flow(**options)
            back = flow.replay(flow.invert(x_0, condition))
            found[name] = psnr(codec.decode(back).float(), edits.image)
        return [{name: float(v[i]) for name, v in found.items()} for i in range(stop - start)]

    @torch.no_grad()
    def sweep(self, kind: str, scales: Sequence[float]) -> Callable[[int, int], list[Row]]:
        """Edits of one inversion at several scales, on drawings that are not used again."""

        def measure(start: int, stop: int) -> list[Row]:
            edits = Edits(kind, start, stop, seed=12)
            x_0 = self.prior.codec.encode(edits.image).detach()
            old, new = map(self.prior.condition, edits.captions)
            inverted, found = self.flow().invert(x_0, old), [Row() for _ in range(stop - start)]
            for scale in scales:
                x = self.flow(scale).edit(inverted, new)
                image = self.prior.codec.decode(x).detach()
                for row, more in zip(found, self.marks(edits, image, f" {scale:g}"), strict=True):
                    row |= more
            return found

        return measure

    def edits(
        self, kind: str, scale: float, *, masked: bool = False, method: type[Edit] = PromptSwap
    ) -> Callable[[int, int], list[Row]]:
        """Edits at one scale; with a mask the outside must be the codec's to the bit."""

        def measure(start: int, stop: int) -> list[Row]:
            edits = Edits(kind, start, stop, seed=11)
            image = self.edited(edits, scale, start, masked=masked, method=method)
            return self.marks(edits, image)

        return measure

    @torch.no_grad()
    def edited(
        self, edits: Edits, scale: float, seed: int, *, masked: bool, method: type[Edit]
    ) -> Tensor:
        """The edited drawings, [n, 3, 64, 64]."""
        codec, n = self.prior.codec, len(edits.image)
        old, new = map(self.prior.condition, edits.captions)
        x_0 = codec.encode(edits.image)
        edit = method.build(
            self.prior.score, self.null, scale=scale, options={"steps": self.steps}
        )
        inside = _wider(edits.drawn, WIDER).float() if masked else None
        small = None if inside is None else shrink(inside, codec.multiple)
        x = edit(x_0, old, new, mask=small, seed=seeds_of(seed, n))
        if inside is None:
            return codec.decode(x).float()
        made = composite(codec, x, inside, kept=x_0.double()).float()
        alone = codec.decode(x_0.double()).float()
        outside = (inside == 0).expand_as(made)
        if not torch.equal(made[outside], alone[outside]):
            raise SystemExit("outside of the mask the edit is not the codec's to the bit")
        return made


def bits(count: int = 8) -> list[dict[str, str]]:
    """Bits a dimension by `shapes-pixel`, of drawings and of what is none; [] without it."""
    if "shapes-pixel" not in names():
        return []
    prior = load("shapes-pixel")
    rng = torch.Generator().manual_seed(4242)
    drawn = F.avg_pool2d(data.render(data.draw_scenes(count, rng, degraded=0.0), rng), 2)
    shuffled = drawn.flatten(2)[..., torch.randperm(32 * 32, generator=rng)].reshape(drawn.shape)
    found = []
    for name, image in (
        ("drawings", drawn),
        ("drawings, upside down in colour", 1 - drawn),
        ("drawings, their pixels shuffled", shuffled),
        ("uniform noise", torch.rand(drawn.shape, generator=rng)),
    ):
        x_0 = prior.codec.encode(dequantize((255 * image).round() / 255))
        known = log_likelihood(prior.score, x_0, steps=25, probes=4)
        values, error = known.bits_per_dim(), known.standard_error / (x_0[0].numel() * math.log(2))
        row = {"images": name, "n": str(count), "bits a dimension": f"{float(values.mean()):.3f}"}
        row["lowest"] = f"{float(values.min()):.3f}"
        row["highest"] = f"{float(values.max()):.3f}"
        found.append(row | {"error of one, from its probes": f"{float(error.mean()):.3f}"})
    return found


def table(rows: Sequence[Row], name: str = "") -> dict[str, str]:
    """Shares with their standard errors, and decibels."""
    found = {}
    for key in ("joint", "shape", "colour", "background"):
        found[key] = per_cent(torch.tensor([r[key + name] for r in rows]))
    decibels = torch.tensor([r[f"dB{name}"] for r in rows])
    found["background, dB: mean"] = f"{float(decibels.mean()):.1f}"
    found["lowest"] = f"{float(decibels.min()):.1f}"
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the tables and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--count", type=int, default=256, help="edits of each kind")
    parser.add_argument("--sweep", type=int, default=32, help="drawings of the sweep of scales")
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument(
        "--methods", nargs="*", default=[], help="more methods, on --sweep drawings"
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--run", type=Path, default=Path("runs/flow_shapes"))
    args = parser.parse_args(arguments)
    if not WEIGHTS.exists():
        raise SystemExit(f"there is no judge at {WEIGHTS}: run python benchmarks/judge.py first")
    bench = Bench(load(args.model), load_judge(), args.run, args.steps, args.batch)
    few = min(64, args.count)
    trips = bench.rows("round trips", few, bench.reconstructions)
    trip = {}
    for name in trips[0]:
        found = torch.tensor([row[name] for row in trips])
        loss = torch.tensor([row["codec"] - row[name] for row in trips])
        trip[name] = {"reconstruction": name, "PSNR, dB": f"{float(found.mean()):.2f}"}
        trip[name] |= {"below the codec: mean": f"{float(loss.mean()):.3f}"}
        trip[name] |= {"most": f"{float(loss.max()):.3f}"}
    swept, judged, pictures = [], [], []
    for kind in KINDS:
        name = f"sweep, {kind}, {' '.join(f'{s:g}' for s in args.scales)}"
        rows = bench.rows(name, min(args.sweep, args.count), bench.sweep(kind, args.scales))
        right = {s: sum(r[f"joint {s:g}"] for r in rows) for s in args.scales}
        best = max(args.scales, key=lambda s: (right[s], -s))
        swept += [{"edit": kind, "scale": f"{s:g}"} | table(rows, f" {s:g}") for s in args.scales]
        head = {"edit": kind, "method": "prompt_swap", "scale": f"{best:g}"}
        rows = bench.rows(f"{kind}, {best:g}", args.count, bench.edits(kind, best))
        judged.append(head | {"mask": "none", "n": str(len(rows))} | table(rows))
        masked = bench.edits(kind, best, masked=True)
        rows = bench.rows(f"{kind}, {best:g}, masked", few, masked)
        judged.append(head | {"mask": "both objects", "n": str(len(rows))} | table(rows))
        for other in args.methods:
            method = plugin("sdstoolkit.edit", other, Edit)
            measure = bench.edits(kind, best, method=method)
            rows = bench.rows(f"{kind}, {best:g}, {other}", min(args.sweep, args.count), measure)
            row = {"edit": kind, "method": other, "scale": f"{best:g}", "mask": "none"}
            judged.append(row | {"n": str(len(rows))} | table(rows))
        shown = Edits(kind, 0, min(8, args.count), seed=11)
        pictures.append(shown.image)
        for masks in (False, True):
            pictures.append(bench.edited(shown, best, 0, masked=masks, method=PromptSwap))
    sheet = grid(torch.cat(pictures).clamp(0, 1), columns=len(pictures[0]))
    write_image(PICTURES / "flow_edits.png", sheet)
    tables = {
        f"Round trips of {few} drawings": list(trip.values()),
        "The scale, on other drawings, per cent right": swept,
        "Edits, per cent right": judged,
    }
    weighed = bits(min(8, args.count))
    if weighed:
        tables["Likelihoods under shapes-pixel"] = weighed
    write_report("flow_shapes", "Reconstruction and edits on the bundled model", tables, machine())


if __name__ == "__main__":
    main()
