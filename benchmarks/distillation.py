"""Every loss on the bundled model: right, varied, natural, and what it costs.

    python benchmarks/distillation.py                         # all of it; hours on two cores
    python benchmarks/distillation.py --count 32 --losses sds csd vsd
    python benchmarks/distillation.py --only edits --count 64

Pictures of captions that training never saw, judged by an independent classifier: joint shape and
colour, with a binomial standard error; the Frechet distance of its features to as many DDIM
pictures, in 32 principal components or a quarter of their number, as it is and without the bias of
so few, with a bootstrap interval (the row of DDIM itself is two draws of it); diversity, the mean
distance of its features among 16 seeds of one caption over that of DDIM; saturation, the share of
values within .02 of the ends; seconds and network rows an image. Then edits, and pictures that are
right in two views. The losses in STUDIED get all captions, the others a quarter of them.
Every batch is kept in runs/distillation/, one folder a model, so that the same command goes on
where it was cut off; a loss whose options have changed is made anew by --fresh.
Writes docs/benchmarks/distillation.md, docs/images/distillation.png and, of the last loss that
makes illusions, docs/images/illusion-*.png.
"""

import argparse
import json
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from judge import Judge, load_judge, mark
from report import machine, write_report
from safetensors.torch import load_file, save_file
from shapes_quality import PICTURES
from torch import Tensor

from sdstoolkit import DDIM, Canvas, ClassifierFree, Latents, Pixels, Prior, edit, load, optimize
from sdstoolkit import distill as D
from sdstoolkit.images import grid, write_image
from sdstoolkit.making import law, make_descent, weight
from sdstoolkit.samplers.inverted import fingerprint
from sdstoolkit.toy import data
from sdstoolkit.views import LOOKS, View, as_it_is

RUNS = Path(__file__).parents[1] / "runs" / "distillation"
BATCH = 16

Make = Callable[[Prior, list[str]], D.Distiller]


def _plain(kind: Any, **options: Any) -> Make:
    if kind.card.law:
        options["t_law"] = law(kind.card.law, None, None)
    if kind.card.weight:
        options["weight"] = weight(kind.card.weight)
    return lambda prior, prompt: kind(prior, prompt, scale=kind.card.scale, **options)


LOSSES: dict[str, Make] = {  # each at its card's scale, law of times, weight and descent
    "sds": _plain(D.SDS),
    "sjc": _plain(D.SJC),
    "csd": _plain(D.CSD),
    "nfsd": _plain(D.NFSD, negative="low quality"),  # words that this model knows
    "bridge": _plain(D.Bridge),
    "vsd": _plain(D.VSD),
    "asd": _plain(D.ASD),
    "ism": _plain(D.ISM),
    "sdi": _plain(D.SDI),
    "cfd": _plain(D.CFD),
    "rfds": _plain(D.RFDS),
    "stein": _plain(D.Stein),
    "repulsive": _plain(D.Repulsive, gamma=1.0),
    "mean_shift": _plain(D.MeanShift),
}
STUDIED = ["sds", "csd", "bridge", "vsd", "sdi", "cfd", "rfds", "dds"]
OTHERS = [name for name in LOSSES if name not in STUDIED]  # on a quarter of the captions
EDITS = {"dds": edit.DDS, "pds": edit.PDS, "ids": edit.IDS, "cds": edit.CDS}


class Rows:
    """Counts the rows that a network, or a twin of it, is asked for."""

    def __init__(self, prior: Prior) -> None:
        self.rows = 0
        self.folder = RUNS / fingerprint(prior.score)[:12]  # other weights, other pictures
        self.folder.mkdir(parents=True, exist_ok=True)
        network: Any = prior.score.network

        def see(module: Any, given: tuple[Tensor, ...]) -> None:
            self.rows += len(given[0])

        network.register_forward_pre_hook(see)

    def forget(self, names: Sequence[str]) -> None:
        """Delete what is kept under these names."""
        for path in [p for name in names for p in self.folder.glob(f"{name}-*")]:
            path.unlink()


def kept(
    name: str, count: int, make: Callable[[list[int]], Tensor], rows: Rows
) -> tuple[Tensor, float, float]:
    """Pictures of a name, made in batches and remembered; seconds and rows an image."""
    images, seconds, asked = [], 0.0, 0.0
    for start in range(0, count, BATCH):
        chunk = list(range(start, min(start + BATCH, count)))
        path = rows.folder / f"{name}-{start:04d}-{len(chunk)}.safetensors"
        facts = path.with_suffix(".json")
        if not facts.exists():
            before, began = rows.rows, time.perf_counter()
            made = (make(chunk).clamp(0, 1) * 255).round().byte()
            spent = {"seconds": time.perf_counter() - began, "rows": rows.rows - before}
            save_file({"images": made.contiguous()}, path)
            facts.write_text(json.dumps(spent))
            print(f"{name}: {chunk[-1] + 1} of {count}, {spent['seconds']:.0f} s", flush=True)
        images.append(load_file(path)["images"].float() / 255)
        spent = json.loads(facts.read_text())
        seconds, asked = seconds + spent["seconds"], asked + spent["rows"]
    return torch.cat(images), seconds / count, asked / count


def way_down(name: str, canvas: str, made: Canvas) -> dict[str, Any]:
    """Learning rate and optimiser of `sds optimize` for the loss on the canvas."""
    chosen = SimpleNamespace(loss=name, canvas=canvas, optimizer=None, lr=None, decay=None)
    return make_descent(chosen, made)


def optimised(
    prior: Prior, name: str, prompts: list[str], seeds: Sequence[int], steps: int, canvas: str
) -> Tensor:
    kind: Any = {"pixels": Pixels, "latents": Latents}[canvas]
    picture = kind(prior, n=len(prompts), seed=list(seeds))
    how = way_down(name, canvas, picture)
    for _ in optimize(picture, LOSSES[name](prior, prompts), steps=steps, **how):
        pass
    with torch.no_grad():
        return picture.image()


@torch.no_grad()
def features(judge: Judge, image: Tensor) -> Tensor:
    return torch.cat([judge.features(2 * part - 1) for part in image.split(256)]).double()


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two samples, [n, d] each."""
    C_a, C_b = (torch.atleast_2d(torch.cov(x.T)) for x in (a, b))
    root = torch.linalg.eigvals(C_a @ C_b).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + C_a.trace() + C_b.trace() - 2 * root)


def unbiased(a: Tensor, b: Tensor, rng: torch.Generator, repeats: int = 4) -> float:
    """The Frechet distance of infinitely many rows: the line through it over 1 / n, at 0.

    n rows of one law are at a distance from n others that falls as 1 / n; of 256 in 32 dimensions
    it is larger than what is to be measured. Chong and Forsyth, 2020,
    https://arxiv.org/abs/1911.07023.
    """
    sizes = [len(a) * k // 8 for k in (4, 5, 6, 7, 8) for _ in range(1 if k == 8 else repeats)]
    rows = [torch.randperm(len(a), generator=rng)[:n] for n in sizes]
    found = torch.tensor([frechet(a[i], b[i]) for i in rows], dtype=torch.float64)
    n = torch.tensor(sizes, dtype=torch.float64)
    line = torch.stack([torch.ones_like(n), 1 / n], 1)
    return float(torch.linalg.lstsq(line, found[:, None]).solution[0])


def distance(found: Tensor, reference: Tensor, draws: int = 100) -> tuple[str, str]:
    """The Frechet distance in 32 principal components of the reference, as it is; and without its
    bias, with a 90 % bootstrap interval over the captions.

    A resampled set repeats rows and so has a bias of its own; its spread is what is taken.
    """
    centre = reference.mean(0)
    axes = torch.linalg.svd(reference - centre, full_matrices=False).Vh
    basis = axes[: min(32, len(found) // 4)].T
    a, b = (found - centre) @ basis, (reference - centre) @ basis
    rng = torch.Generator().manual_seed(0)
    spread = []
    for _ in range(draws):
        rows = torch.randint(len(a), (len(a),), generator=rng)
        spread.append(unbiased(a[rows], b[rows], rng, 8))
    away = torch.tensor(spread, dtype=torch.float64)
    low, high = (away - away.mean()).quantile(away.new_tensor([0.05, 0.95])).tolist()
    value = unbiased(a, b, rng, 16)
    return f"{frechet(a, b):.1f}", f"{value:.1f} ({value - high:.1f} to {value - low:.1f})"


def per_cent(right: Tensor) -> str:
    p = float(right.float().mean())
    return f"{100 * p:.1f} ± {100 * (p * (1 - p) / len(right)) ** 0.5:.1f}"


def gallery(path: Path, rows: dict[str, Tensor], captions: Sequence[str]) -> None:
    """Pictures with a name to each row and a caption to each column."""
    from matplotlib.figure import Figure

    shown = grid(torch.cat(list(rows.values())), columns=len(captions)).clamp(0, 1)
    height, width = shown.shape[-2:]
    figure = Figure(figsize=(width / 60 + 1.2, height / 60 + 0.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown[0].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_yticks([height * (k + 0.5) / len(rows) for k in range(len(rows))], list(rows))
    words = ["\n".join(textwrap.wrap(caption, 14)) for caption in captions]
    places = [width * (k + 0.5) / len(captions) for k in range(len(captions))]
    axes.set_xticks(places, words, fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def compare(
    args: argparse.Namespace, prior: Prior, judge: Judge, rows: Rows, names: list[str], count: int
) -> tuple[list[dict], dict[str, Tensor]]:
    """The table of some losses, and the pictures of it."""
    captions, scenes = data.unseen_captions(max(256, count))
    captions, scenes = captions[:count], scenes[slice(0, count)]
    one = [captions[0]] * 16

    null = prior.condition("")

    def ddim(prompts: Sequence[str], chunk: list[int], away: int = 0) -> Tensor:
        sampler = DDIM(ClassifierFree(prior.score, null, scale=args.ddim_scale), steps=50)
        condition = prior.condition([prompts[i] for i in chunk])
        x_0 = sampler.sample(len(chunk), condition, [away + i for i in chunk])
        with torch.no_grad():
            return prior.codec.decode(x_0)

    reference, seconds, asked = kept("ddim", count, lambda c: ddim(captions, c), rows)
    varied, _, _ = kept("ddim-one", 16, lambda c: ddim(one, c), rows)
    there = features(judge, reference)
    base = float(torch.pdist(features(judge, varied)).mean())
    # the same captions with other seeds: how far two draws from one law are apart
    other, _, _ = kept("ddim-again", count, lambda c: ddim(captions, c, 10_000), rows)
    table, pictures = [], {"DDIM": reference[:8]}

    def row(name: str, image: Tensor, sixteen: Tensor, cost: tuple[float, float]) -> None:
        marks = mark(judge.judge(image), scenes)
        seen = features(judge, image)
        near, limit = distance(features(judge, other) if name == "DDIM" else seen, there)
        table.append({
            "loss": name, "joint": per_cent(marks.joint), "shape": per_cent(marks.shape),
            "colour": per_cent(marks.colour), "background": per_cent(marks.background),
            "Frechet distance": near, "without bias": limit,
            "diversity": f"{float(torch.pdist(features(judge, sixteen)).mean()) / base:.2f}",
            "at the ends": f"{float(((image < 0.02) | (image > 0.98)).float().mean()):.1%}",
            "s / image": f"{cost[0]:.1f}", "rows / image": f"{cost[1]:.0f}",
        })  # fmt: skip
        print(table[-1], flush=True)

    row("DDIM", reference, varied, (seconds, asked))
    for name in names:

        def several(chunk: list[int], name: str = name) -> Tensor:
            prompts = [captions[i] for i in chunk]
            return optimised(prior, name, prompts, chunk, args.steps, args.canvas)

        def same(chunk: list[int], name: str = name) -> Tensor:
            return optimised(prior, name, one, chunk, args.steps, args.canvas)

        key = f"{name}-{args.canvas}-{args.steps}"
        image, seconds, asked = kept(key, count, several, rows)
        sixteen, _, _ = kept(f"{key}-one", 16, same, rows)
        row(f"`{name}`", image, sixteen, (seconds, asked))
        pictures[name] = image[:8]
    return table, pictures


def edits(args: argparse.Namespace, prior: Prior, judge: Judge, rows: Rows) -> list[dict]:
    """Drawings whose colour word is changed: is it changed, and the rest left alone."""
    rng = torch.Generator().manual_seed(5)
    every = max(256, args.count)  # fewer are the first of these
    scenes = data.draw_scenes(every, rng, pairs=0.0, degraded=0.0)
    drawn = data.render(scenes, rng)
    told = [data.caption(scenes, i) for i in range(every)]
    new = (scenes.colour + 1 + torch.randint(6, scenes.colour.shape, generator=rng)) % 8
    new = torch.where(new == scenes.background[:, None], (new + 1) % 8, new)
    changed = data.Scenes(**{**vars(scenes), "colour": new})
    wanted = [data.caption(changed, i) for i in range(every)]
    ground = torch.tensor(list(data.COLOURS.values()))[scenes.background][:, :, None, None]
    far = ((drawn - ground).abs().amax(1, keepdim=True) > 0.04).float()
    outside = torch.nn.functional.max_pool2d(far, 5, 1, 2) == 0
    table = []
    for name in args.edits:
        kind: Any = EDITS[name]

        def make(chunk: list[int], kind: Any = kind) -> Tensor:
            image = drawn[chunk]
            with torch.no_grad():
                source = prior.codec.encode(image)
            method = kind(prior.score, prior.condition(""), scale=args.edit_scale)
            was, shall = ([words[i] for i in chunk] for words in (told, wanted))
            x_0 = method(source, prior.condition(was), prior.condition(shall), seed=chunk)
            with torch.no_grad():
                return prior.codec.decode(x_0)

        key = f"{name}-edits-{args.edit_scale:g}"
        count = args.count if name in STUDIED else args.count // 4
        image, seconds, asked = kept(key, count, make, rows)
        marks = mark(judge.judge(image), changed[slice(0, count)])
        away = (image - drawn[:count]).square() * outside[:count]
        error = away.sum((1, 2, 3)) / (3 * outside[:count].sum((1, 2, 3)))
        psnr = -10 * error.clamp(min=1e-8).log10()
        table.append({
            "loss": f"`{name}`", "edits": str(count), "colour changed": per_cent(marks.colour),
            "shape kept": per_cent(marks.shape), "background, dB": f"{float(psnr.mean()):.1f}",
            "s / image": f"{seconds:.1f}", "rows / image": f"{asked:.0f}",
        })  # fmt: skip
        print(table[-1], flush=True)
    return table


def compatible(count: int) -> dict[str, tuple[data.Scenes, data.Scenes]]:
    """What is seen in each of two views: half are pairs and their mirror image, half an object
    and its negative, of colours whose complements have names."""
    _, pairs = data.unseen_captions(256, pairs=True)
    beside = [i for i in range(256) if int(pairs.relation[i]) < 2][: count // 2]
    pairs = pairs[torch.tensor(beside)]
    mirrored = data.Scenes(**{**vars(pairs), "relation": 1 - pairs.relation})
    opposite = "green purple blue orange white black".split()  # each two are complements
    other = torch.full((len(data.COLOURS),), -1)
    for one, two in zip(opposite[::2], opposite[1::2], strict=True):
        a, b = data.COLOUR_NAMES.index(one), data.COLOUR_NAMES.index(two)
        other[a], other[b] = b, a
    rng = torch.Generator().manual_seed(6)
    alone = data.draw_scenes(2048, rng, pairs=0.0, degraded=0.0)
    named = (other[alone.colour[:, 0]] >= 0) & (other[alone.background] >= 0)
    alone = alone[named.nonzero().flatten()[: count - len(beside)]]
    there = {"colour": other[alone.colour], "background": other[alone.background]}
    return {"mirror": (pairs, mirrored), "negative": (alone, data.Scenes(**vars(alone) | there))}


def illusions(args: argparse.Namespace, prior: Prior, judge: Judge, rows: Rows) -> list[dict]:
    """One picture that is right as it is and in another view, with the words for that."""
    wanted = compatible(min(args.count, 64))
    table = []
    for name in args.illusions:
        right, spent = [], []
        for look, (here, there) in wanted.items():
            told = [data.caption(here, i) for i in range(len(here))]
            seen = [data.caption(there, i) for i in range(len(there))]

            def both(
                chunk: list[int],
                name: str = name,
                look: str = look,
                told: list[str] = told,
                seen: list[str] = seen,
            ) -> Tensor:
                canvas = Pixels(prior, n=len(chunk), seed=chunk)
                views = [
                    View(as_it_is, LOSSES[name](prior, [told[i] for i in chunk])),
                    View(LOOKS[look], LOSSES[name](prior, [seen[i] for i in chunk])),
                ]
                how = way_down(name, "pixels", canvas)
                for _ in optimize(canvas, views, steps=args.steps, **how):
                    pass
                with torch.no_grad():
                    return canvas.image()

            key = f"{look}-{name}-{args.steps}"
            image, *cost = kept(key, len(here), both, rows)
            marks = mark(judge.judge(image), here), mark(judge.judge(LOOKS[look](image)), there)
            right.append([each.relation & each.background for each in marks])
            spent.append(cost)
            # one above the other: what is there, and what the view makes of it
            shown = torch.stack([image, LOOKS[look](image)], 1)[:8].transpose(0, 1).flatten(0, 1)
            write_image(PICTURES / f"illusion-{look}.png", grid(shown, columns=8))
        for look, marks, cost in zip(
            [*wanted, "all"],
            [*right, [torch.cat(each) for each in zip(*right, strict=True)]],
            [*spent, [sum(each) / len(each) for each in zip(*spent, strict=True)]],
            strict=True,
        ):
            table.append({
                "loss": f"`{name}`", "view": look, "pictures": str(len(marks[0])),
                "right": per_cent(marks[0]), "right in the view": per_cent(marks[1]),
                "right in both": per_cent(marks[0] & marks[1]), "s / image": f"{cost[0]:.1f}",
                "rows / image": f"{cost[1]:.0f}",
            })  # fmt: skip
            print(table[-1], flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--count", type=int, default=256, help="of captions, and of edits")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES))
    parser.add_argument("--edits", nargs="+", choices=list(EDITS), default=list(EDITS))
    parser.add_argument("--illusions", nargs="+", choices=list(LOSSES), default=["sds"])
    parser.add_argument("--fresh", action="store_true", help="forget what is kept of what is made")
    parser.add_argument("--only", choices=("losses", "edits", "illusions"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--canvas", choices=("pixels", "latents"), default="latents")
    parser.add_argument("--edit-scale", type=float, default=7.5)
    parser.add_argument("--ddim-scale", type=float, default=5.0)
    args = parser.parse_args()
    prior, judge = load(args.model), load_judge()
    rows = Rows(prior)
    if args.fresh:
        views = [f"{look}-{name}" for look in ("mirror", "negative") for name in args.illusions]
        rows.forget([*args.losses, *args.edits, *views])
    tables, chosen = {}, [args.only] if args.only else ["losses", "edits", "illusions"]
    if "losses" in chosen:
        shown = {}
        for names, count in ((STUDIED, args.count), (OTHERS, args.count // 4)):
            names = [name for name in names if name in args.losses]
            if names:
                heading = f"{count} unseen captions, {args.steps} steps on {args.canvas}"
                tables[heading], pictures = compare(args, prior, judge, rows, names, count)
                shown |= pictures | shown  # the first row of DDIM stays
        captions = data.unseen_captions(256)[0][:8]
        gallery(PICTURES / "distillation.png", shown, captions)
    if "edits" in chosen:
        tables["Drawings, to another colour"] = edits(args, prior, judge, rows)
    if "illusions" in chosen:
        tables["One picture, right in two views"] = illusions(args, prior, judge, rows)
    write_report("distillation", "Losses on the bundled model", tables, machine())


if __name__ == "__main__":
    main()
