"""Edit: an image under one prompt becomes an image under another, in a mask if one is painted.

The methods are those of `sdstoolkit.edit`, watched on their way. What the report says is measured
on the inversion of the image along the probability flow, at guidance scale 1.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from sdstoolkit import ProbabilityFlow, _plugins, images, jobs
from sdstoolkit.cli import plugin
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import number, read_upload, spoken, text
from sdstoolkit.demos._paint import drawn, editor, painted, upload
from sdstoolkit.demos._site import DEVICE, Run, Site, pack
from sdstoolkit.demos._watch import Looks, Stopped, Watching
from sdstoolkit.edit import Edit, EditStep, blend, shrink
from sdstoolkit.prior import Prior

TITLE, PLACE = "Edit", 2
TAB = "edit"
FIRST = "prompt_swap"
MOST_STEPS = 500
WANTED = (  # of the drawings in `_paint.SCENES`
    "a blue heart on a white background",
    "a red star on a blue background",
    "an orange circle on a black background",
)


def kind_of(name: object) -> Any:
    """A method's class by name.

    Raises:
        ValueError: There is no such method.
    """
    return plugin("sdstoolkit.edit", str(name), Edit)


def own(name: object) -> dict[str, Any]:
    """Those of steps and strength that a method takes, with its defaults."""
    taken = inspect.signature(kind_of(name)).parameters
    return {key: taken[key].default for key in ("steps", "strength") if key in taken}


def run_edit(site: Site, run: Run, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Read, edit step by step, show; then invert and report."""
    path, fit, mask_of, source, target, negative, method, *numbers, reports, model = values
    strength, steps, scale, seed = numbers
    seed = int(number("the seed", seed, 0, 2**32 - 1, whole=True))
    steps = int(number("steps", steps, 1, MOST_STEPS, whole=True))
    strength = float(number("strength", strength, 0.01, 1))
    scale = float(number("the guidance scale", scale, -100, 100))
    source, target = text("what it shows", source), text("what it shall show", target)
    negative, given = text("the negative prompt", negative), dict(steps=steps, strength=strength)
    prior = site.prior(model)
    image = read_upload(path, prior.size, fit=bool(fit)).to(prior.device)
    mask = painted(mask_of, prior.size)
    mask = None if mask is None else mask.to(image)
    small = None if mask is None else shrink(mask, prior.codec.multiple)
    old, new = prior.condition(source or None), prior.condition(target or None)
    null = prior.condition(negative or None) if target else None
    score = Watching(prior.score, run)
    taken = {key: given[key] for key in own(method)}
    editing = kind_of(method).build(score, null, scale=scale, options=taken)
    with torch.no_grad():
        x_0 = prior.codec.encode(image)

    def shown(step: EditStep) -> Tensor:
        with torch.no_grad():
            made = prior.codec.decode(step.x_0).float().clamp(0, 1)
        return made if mask is None else blend(made, image, mask)

    facts, looks = f"**{method}**", Looks()
    facts += "" if mask is None else f" · {100 * float((mask > 0).float().mean()):.0f} % editable"
    for step in editing.steps(x_0, old, new, mask=small, seed=seed):
        if step.index == 1 or (step.index < step.steps and looks.due()):
            seen = _pictures.picture(shown(step))
            yield gr.skip(), seen, None, f"{facts} · step {step.index} of {step.steps}", ""
            looks.over()
    if not (made := shown(step)).isfinite().all():
        raise ValueError("the edit is not finite: take more steps, or a lower guidance scale")
    pair = (_pictures.picture(image), _pictures.picture(made))
    facts += f" · {score.calls} evaluations"
    yield pair, pair[1], None, f"{facts} · " + ("measuring ..." if reports else "done"), ""
    said = _report(prior, score, steps, x_0, old, image) if reports else ""
    options = dict(model=model, source=source, target=target, negative=negative, method=method)
    options |= taken | dict(scale=scale, seed=seed, masked=mask is not None)
    zipped = keep(run, prior, options, image, made, mask, said)
    yield gr.skip(), gr.skip(), zipped, f"{facts} · done", said  # equal images share a file


def _report(
    prior: Prior, score: Watching, steps: int, x_0: Tensor, old: Any, image: Tensor
) -> str:
    """What the inversion says of itself; the edit outlives one that is stopped."""
    flow = ProbabilityFlow(score, steps=steps)
    try:
        with torch.no_grad():
            inverted = flow.invert(x_0, old)
            return str(flow.report(inverted, codec=prior.codec, image=image, iterations=0))
    except Stopped:
        return ""


def keep(
    run: Run, prior: Prior, options: dict[str, Any], image: Tensor, shown: Tensor,
    mask: Tensor | None, said: str,
) -> str:  # fmt: skip
    """The folder of the edit, packed."""
    seed = options["seed"]
    job = jobs.Job(run.folder / "result", command="demo edit", options=options, seeds=(seed,))
    with job:
        job.note(model=prior.score.describe())
        job.keep(seed, shown.float().cpu(), state="done", steps=options.get("steps", 1))
        others = {"source.png": image} | ({} if mask is None else {"mask.png": mask})
        for name, picture in others.items():
            with job.file(name) as draft:
                images.write_image(draft, picture)
        if said:
            with job.file("report.txt") as draft:
                draft.write_text(said + "\n", encoding="utf-8")
    return pack(run, "edit")


def build(site: Site) -> None:
    """The tab."""
    found = drawn(site.folder / "examples")
    rows = [[*given[:2], wanted] for given, wanted in zip(found, WANTED, strict=True)]
    labels = [f"{given[2]}: {wanted}" for given, wanted in zip(found, WANTED, strict=True)]
    first = own(FIRST)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            image = upload("upload")
            fit = gr.Checkbox(False, label="Crop and resize", info="Else another size is refused.")
            source = gr.Textbox(label="What it shows", elem_id="source")
            target = gr.Textbox(label="What it shall show", elem_id="target")
            with gr.Row():
                run = gr.Button("Edit", variant="primary", elem_id="edit", min_width=90)
                stop = gr.Button("Stop", variant="stop", min_width=80)
            with gr.Row():
                method = gr.Dropdown(
                    _plugins.names("sdstoolkit.edit"), value=FIRST, label="Method"
                )
                strength = gr.Slider(0.05, 1, first["strength"], step=0.01, label="Strength")
            with gr.Accordion("More", open=False):
                with gr.Row():
                    steps = gr.Slider(1, MOST_STEPS, first["steps"], step=1, label="Steps")
                    scale = gr.Slider(0, 20, 3, step=0.1, label="Guidance scale")
                negative = gr.Textbox(label="Negative prompt", info="What to steer away from.")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0)
                    reports = gr.Checkbox(True, label="Report on the inversion")
                model = gr.Dropdown(
                    list(site.models), value=site.models[0], label="Model",
                    allow_custom_value=site.free,
                )  # fmt: skip
            about = "Mask: paint where to edit; unpainted, everything is"
            with gr.Accordion(about, open=False, elem_id="mask-box"):
                mask = editor(site, "mask", image, fit, model)
            gr.Examples(
                rows, [image, source, target], example_labels=labels, cache_examples=False,
                label="Examples", api_visibility="private", elem_id="edit-examples",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=300):
            pair = gr.ImageSlider(
                label="Before and after: pull the handle", format="png", interactive=False,
                height=420, elem_id="pair", elem_classes="pixelated", max_height=420,
            )  # fmt: skip
            after = gr.Image(
                label="After", format="png", interactive=False, height=220, elem_id="after",
                elem_classes="pixelated", buttons=["download", "fullscreen"],
            )  # fmt: skip
            status = gr.Markdown(
                "Upload an image, or take an example.", elem_classes="said", elem_id="edit-status"
            )
            said = gr.Textbox(
                label="What the inversion says of itself", lines=8, interactive=False,
                elem_classes="report", elem_id="report",
            )  # fmt: skip
            packed = gr.DownloadButton("Download the results", size="md")

    def chose(method: Any) -> Any:
        """The sliders at the method's own defaults."""
        mine = own(method)
        strong = gr.Slider(interactive="strength" in mine)
        if "strength" in mine:
            strong = gr.Slider(mine["strength"], interactive=True)
        return mine.get("steps", gr.skip()), strong

    fields = [image, fit, mask, source, target, negative, method, strength]
    fields += [steps, scale, seed, reports, model]

    def started(
        image: Any, fit: Any, mask: Any, source: Any, target: Any, negative: Any, method: Any,
        strength: Any, steps: Any, scale: Any, seed: Any, report: Any, model: Any,
        request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        values = (image, fit, mask, source, target, negative, method, strength, steps, scale)
        with site.runs.working(request, TAB) as mine:
            yield from run_edit(site, mine, (*values, seed, report, model))

    def stopped(request: gr.Request) -> None:
        if not site.runs.halt(request, TAB, final=True):
            raise ValueError("nothing is running here")

    method.change(
        spoken(chose), method, [steps, strength], api_visibility="private", queue=False
    )
    run.click(
        spoken(started), fields, [pair, after, packed, status, said], api_name="edit",
        show_progress="minimal", concurrency_limit=site.jobs, concurrency_id=DEVICE,
    )  # fmt: skip
    stop.click(spoken(stopped), None, None, api_name="stop_edit", queue=False)
