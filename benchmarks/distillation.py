"""Every loss on the bundled model: right, varied, natural, and what it costs.

    python benchmarks/distillation.py                         # all of it; hours on two cores
    python benchmarks/distillation.py --count 32 --losses sds csd vsd
    python benchmarks/distillation.py --only edits --count 64

Pictures of captions that training never saw, judged by an independent classifier: joint shape and
colour, with a binomial standard error; the Frechet distance of its features to as many DDIM
pictures, in 32 principal components or a quarter of their number, as it is and without the bias of
so few, with a bootstrap interval (the row of DDIM itself is two draws of it); diversity, the mean
distance of its features among 16 seeds of one caption over that of DDIM; saturation, the share of
values within .02 of the ends; seconds (of the fastest batch) and network rows an image. Then
edits, and pictures that are right in two views. The losses in STUDIED get all captions, the
others a quarter of them.
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
from typing import Any

import torch
from frechet import distance
from judge import Judge, load_judge, mark
from report import machine, per_cent, write_report
from safetensors.torch import load_file, save_file
from shapes_quality import PICTURES
from torch import Tensor

from sdstoolkit import DDIM, ClassifierFree, Prior, edit, load, optimize
from sdstoolkit.choices import Repulsive
from sdstoolkit.images import grid, write_image
from sdstoolkit.making import make_canvas, make_descent, make_loss
from sdstoolkit.pipelines.optimize import Options
from sdstoolkit.samplers.inverted import fingerprint
from sdstoolkit.toy import data
from sdstoolkit.views import LOOKS, View, as_it_is

RUNS = Path(__file__).parents[1] / "runs" / "distillation"
BATCH = 16

LOSSES = (
    "sds sjc csd nfsd bridge vsd asd ism sdi cfd rfds stein repulsive mean_shift".split()
)
OWN: dict[str, dict[str, Any]] = {  # besides what the command takes from their cards
    "csd": {"negative_prompt": "noisy"},  # words that this model knows
    "nfsd": {"negative_prompt": "low quality"},
    "repulsive": {"repulsive": Repulsive(gamma=1.0)},
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
    """Pictures of a name, made in batches and remembered; seconds and rows an image.

    The seconds are those of the fastest batch: the machine may have other work.
    """
    images, seconds, asked = [], float("inf"), 0.0
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
        seconds, asked = min(seconds, spent["seconds"] / len(chunk)), asked + spent["rows"]
    return torch.cat(images), seconds, asked / count


def optimised(
    prior: Prior,
    name: str,
    seeds: Sequence[int],
    wanted: dict[str, list[str]],
    steps: int,
    canvas: str = "pixels",
) -> Tensor:
    """Pictures as `sds optimize` makes them, each with a prompt for every way to look at it."""
    views, own = [], OWN.get(name, {})
    for look, prompts in wanted.items():
        chosen: Any = Options(prompt=prompts, out="", loss=name, canvas=canvas, **own)
        views.append(View(LOOKS.get(look, as_it_is), make_loss(chosen, prior, None)))
    picture = make_canvas(chosen, prior, tuple(seeds), None)
    for _ in optimize(picture, views, steps=steps, **make_descent(chosen, picture)):
        pass
    with torch.no_grad():
        return picture.image()


@torch.no_grad()
def features(judge: Judge, image: Tensor) -> Tensor:
    return torch.cat([judge.features(2 * part - 1) for part in image.split(256)]).double()


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

    def row(
        name: str, image: Tensor, seen: Tensor, sixteen: Tensor, cost: tuple[float, float]
    ) -> None:
        marks = mark(judge.judge(image), scenes)
        near, limit = distance(seen, there)
        table.append({
            "loss": name, "joint": per_cent(marks.joint), "shape": per_cent(marks.shape),
            "colour": per_cent(marks.colour), "background": per_cent(marks.background),
            "Frechet distance": near, "without bias": limit,
            "diversity": f"{float(torch.pdist(features(judge, sixteen)).mean()) / base:.2f}",
            "at the ends": f"{float(((image < 0.02) | (image > 0.98)).float().mean()):.1%}",
            "s / image": f"{cost[0]:.1f}", "rows / image": f"{cost[1]:.0f}",
        })  # fmt: skip
        print(table[-1], flush=True)

    row("DDIM", reference, features(judge, other), varied, (seconds, asked))
    for name in names:

        def several(chunk: list[int], name: str = name) -> Tensor:
            prompts = {"": [captions[i] for i in chunk]}
            return optimised(prior, name, chunk, prompts, args.steps, args.canvas)

        def same(chunk: list[int], name: str = name) -> Tensor:
            return optimised(prior, name, chunk, {"": one}, args.steps, args.canvas)

        key = f"{name}-{args.canvas}-{args.steps}"
        image, seconds, asked = kept(key, count, several, rows)
        sixteen, _, _ = kept(f"{key}-one", 16, same, rows)
        left = OWN.get(name, {}).get("negative_prompt")
        called = f"`{name}`, not *{left}*" if left else f"`{name}`"
        row(called, image, features(judge, image), sixteen, (seconds, asked))
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
                views = {"": [told[i] for i in chunk], look: [seen[i] for i in chunk]}
                return optimised(prior, name, chunk, views, args.steps)

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
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--edits", nargs="+", choices=list(EDITS), default=list(EDITS))
    parser.add_argument("--illusions", nargs="+", choices=LOSSES, default=["sds"])
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
                shown |= pictures
        captions = data.unseen_captions(256)[0][:8]
        gallery(PICTURES / "distillation.png", shown, captions)
    if "edits" in chosen:
        tables["Drawings, to another colour"] = edits(args, prior, judge, rows)
    if "illusions" in chosen:
        tables["One picture, right in two views"] = illusions(args, prior, judge, rows)
    write_report("distillation", "Losses on the bundled model", tables, machine())


if __name__ == "__main__":
    main()
