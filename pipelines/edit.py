"""Change what an image shows, with a pretrained model and two prompts.

  sds edit heart.png --prompt "a red heart" --to "a blue heart" --out edited
  sds edit heart.png --prompt A --to B --method flow_edit --strength 0.7 --seeds 0-3 --out edited

A method has options of its own, see `sds edit --method NAME --help`. The folder then holds

  000000.png                what seed 0 made of it, and so on
  000000-steps.png          how that came to be
  000000-compare.png        image, codec alone, edit, and where the last two differ
  000000-report.txt, .json  how much has changed, inside and outside of the mask
  manifest.json             what is needed to make them again, and the hash of every file
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sdstoolkit.cli import Own, Range, launch, one_of, own, plugin
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines._telling import Telling

if TYPE_CHECKING:
    from sdstoolkit.jobs import Job

METHOD = Own("sdstoolkit.edit", "Edit")
MOMENTS = 8  # looks in a strip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `sds edit` takes, with its defaults."""

    image: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]
    """The image to edit."""
    prompt: str = ""
    """What it shows; nothing for a model without words."""
    to: str = ""
    """What it shall show."""
    to_label: Annotated[int | None, Range(low=0), tyro.conf.arg(metavar="INT")] = None
    """The class that it shall be of, beside --label, which it is of: 0 or more."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The folder to write: a new or an empty one, or one to resume."""
    mask: str = ""
    """Where to edit: an image of the same size, white there; what is black is kept to the bit."""
    keep: Literal["codec", "pixels"] = "codec"
    """What is kept outside of the mask: the codec's reconstruction, or the image's own pixels."""
    method: Annotated[str, one_of("sdstoolkit.edit"), METHOD] = "prompt_swap"
    """The editing method."""
    model: str = "shapes"
    """The bundled model (shapes), a diffusers folder, or OWNER/NAME on the Hugging Face hub."""
    scale: Annotated[float, Range()] = 3.0
    """Guidance scale towards the new prompt: any finite number; 1 is no guidance."""
    negative_prompt: str = ""
    """What to steer away from; by default the empty prompt."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "0"
    """The edits to make, one a seed, for methods that draw noise: for example 0-3,7."""
    batch_size: Annotated[int, Range(low=1)] = 4
    """Images at a time: 1 or more."""
    loading: Loading = field(default_factory=Loading)
    telling: Telling = field(default_factory=Telling)


def run(options: Options) -> int:
    """Make the edits that are missing."""
    from sdstoolkit import runs

    return runs.run(options, make, command="edit", files=("image", "mask"))


def make(job: "Job", options: Options) -> None:
    """Load, edit batch after batch, compare, and draw what came out."""
    from sdstoolkit import edit, images, jobs, pictures

    prior = options.loading.open(options.model)
    image = options.telling.read(options.image, prior)
    inside = pictures.open_mask(options.mask, options.image, prior, how=options.telling.fit)
    prior = options.telling.tell(prior, image=image, mask=inside)
    source = options.telling.condition(prior, options.prompt)
    target = prior.condition(options.to or None, label=options.to_label)
    led = bool(options.to) or options.to_label is not None
    null = prior.condition(options.negative_prompt or None) if led else None
    kind = plugin("sdstoolkit.edit", options.method, edit.Edit)
    method = kind.build(prior.score, null, scale=options.scale, options=own(options, "method"))
    codec, x_0 = prior.codec, prior.codec.encode(image).detach()
    alone = codec.decode(x_0).detach().float()
    kept = image if options.keep == "pixels" else alone
    small = None if inside is None else edit.shrink(inside, codec.multiple)
    total = next(method.steps(x_0, source, target, mask=small)).steps  # what is wrong shows here
    prior.drop_text()
    with job, jobs.progress(len(job.mine) * total) as tell:
        job.note(**options.loading.facts(prior))
        for seeds in job.batches(options.batch_size):
            looks, at, rows = [], 0, x_0.expand(len(seeds), -1, -1, -1)
            for step in method.steps(rows, source, target, mask=small, seed=seeds):
                if step.index * MOMENTS % step.steps < MOMENTS:
                    looks.append(codec.decode(step.x_0).detach().float())
                tell(len(seeds) * (step.index - at), None)
                at = step.index
            made = codec.decode(step.x_0).detach().float()
            if inside is not None:
                made = edit.blend(made, kept.to(made), inside.to(made))
            for row, seed in enumerate(seeds):
                if not (one := made[row : row + 1]).isfinite().all():
                    raise jobs.Failed(f"the edit of seed {seed} is not finite; take more steps")
                picture, found, text = pictures.changes(image, alone, one, inside)
                job.write(f"{seed:06d}-compare.png", picture)
                job.write(f"{seed:06d}-steps.png", images.strip([v[row : row + 1] for v in looks]))
                job.write(f"{seed:06d}-report.json", json.dumps(found, indent=2))
                job.write(f"{seed:06d}-report.txt", text)
                job.keep(seed, one, state="done", steps=total)
        job.gather()


if __name__ == "__main__":
    raise SystemExit(launch(Options, run))
