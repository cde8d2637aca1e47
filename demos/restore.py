"""Restore: a hole is filled, a blur taken out, a small image enlarged, a grey one coloured.

The operators and the methods are those of `sds restore`. An image can be damaged first, by the
operator and the noise, so that what comes back can be measured against it.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import gradio as gr
import torch
from torch import Tensor

from sdstoolkit import ClassifierFree, images, jobs, restoration
from sdstoolkit.adapters import names
from sdstoolkit.codec import Codec
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import number, read_upload, spoken, text
from sdstoolkit.demos._paint import compared, drawn, editor, painted, upload
from sdstoolkit.demos._site import DEVICE, Run, Site, pack
from sdstoolkit.demos._watch import Looks, Watching
from sdstoolkit.operators import Grey, Mask, Operator
from sdstoolkit.pictures import psnr
from sdstoolkit.pipelines.restore import Options
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

TITLE, PLACE = "Restore", 4
TAB = "restore"
MOST_STEPS = 500
DEFAULT = Options(image="", operator="inpaint", model="", out="")
OPERATORS, METHODS = (get_args(get_type_hints(Options)[name]) for name in ("operator", "method"))


def asked(run: Run, values: dict[str, Any]) -> Options:
    """The fields of the form as the options of the command.

    Raises:
        ValueError: One of them is out of range.
    """
    for name, known in (("operator", OPERATORS), ("method", METHODS)):
        if values[name] not in known:
            raise ValueError(
                f"the {name} is {values[name]!r}, expected one of {', '.join(known)}"
            )
    return Options(
        image="",
        out=str(run.folder),
        operator=values["operator"],
        method=values["method"],
        model=values["model"],
        prompt=text("the prompt", values["prompt"]),
        blur=float(number("the blur", values["blur"], 0.1, 16)),
        factor=int(number("the factor", values["factor"], 2, 16, whole=True)),
        noise=float(number("the noise", values["noise"], 0, 1)),
        scale=float(number("the guidance scale", values["scale"], -100, 100)),
        steps=int(number("steps", values["steps"], 1, MOST_STEPS, whole=True)),
        eta=float(number("eta", values["eta"], 0, 1)),
        seeds=str(int(number("the seed", values["seed"], 0, 2**32 - 1, whole=True))),
    )


def measure(
    options: Options, prior: Prior, operator: Operator, values: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """What was measured, [1, c, h, w] in [0, 1] but for noise, and the truth if it is known."""
    size, fit, damage = prior.size, bool(values["fit"]), bool(values["damage"])
    if options.operator == "downsample" and not damage:
        if any(side % options.factor for side in size):
            raise ValueError(f"{size[1]} x {size[0]} pixels cannot be {options.factor} x smaller")
        size = (size[0] // options.factor, size[1] // options.factor)
    image = read_upload(values["image"], size, fit=fit).to(prior.device)
    if prior.codec.image_channels == 1:
        image = image.mean(1, keepdim=True)
    if not damage:
        return (_seen(Grey(), image) if options.operator == "grey" else image), None
    seen = _seen(operator, image)
    rng = generators([int(options.seeds)], "demo measurement")
    noisy = seen + options.noise * normal(rng, seen.shape[1:]).to(seen)
    if isinstance(operator, Mask):
        noisy = torch.where(operator.known.to(seen) > 0, noisy, 0.5)
    return noisy, image


def _seen(operator: Operator, image: Tensor) -> Tensor:
    """A of an image in [0, 1]: operators are linear in the model's range, -1 to 1."""
    return (operator(2 * image - 1) + 1) / 2


def run_restore(site: Site, run: Run, values: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Read, damage if asked to, restore step by step, measure."""
    options, prior = asked(run, values), site.prior(values["model"])
    mask = painted(values["mask"], prior.size) if options.operator == "inpaint" else None
    if options.operator == "inpaint" and mask is None:
        raise ValueError("nothing is painted, expected the hole to be: paint where to fill")
    operator = restoration.operator_of(options, mask)
    if isinstance(operator, Mask):
        operator.known = operator.known.to(prior.device)
    if type(prior.codec) is not Codec and options.method != "dps":
        raise ValueError(f"{options.method} is for models of pixels: take dps, or another model")
    measured, truth = measure(options, prior, operator, values)
    condition = prior.condition(options.prompt or None)
    score: Any = Watching(prior.score, run)
    if options.scale != 1:
        score = ClassifierFree(score, prior.condition(None), scale=options.scale)
    sampler, codec = restoration.sampler_of(options, score, prior.codec, operator, measured)
    before = _enlarged(measured.clamp(0, 1), prior.size)
    facts, looks, seed = f"**{options.method}** · {options.operator}", Looks(), int(options.seeds)
    for index, x in enumerate(sampler.steps(1, condition, (seed,))):
        if index == 1 or (0 < index < options.steps and looks.due()):
            shown = _pictures.picture(_decoded(codec, x))
            yield gr.skip(), shown, None, f"{facts} · step {index} of {options.steps}"
            looks.over()
    made = _decoded(codec, x)
    if truth is not None:
        facts += f" · {_decibels(before, truth):.1f} dB before"
        facts += f", {_decibels(made, truth):.1f} dB after"
    pair = (_pictures.picture(before), _pictures.picture(made))
    given = {key: value for key, value in vars(options).items() if key in _RECORDED}
    job = jobs.Job(run.folder / "result", command="demo restore", options=given, seeds=(seed,))
    with job:
        job.note(model=prior.score.describe())
        job.keep(seed, made, state="done", steps=options.steps)
        others = {"measured.png": measured, "mask.png": mask, "truth.png": truth}
        for name, picture in others.items():
            if picture is not None:
                with job.file(name) as draft:
                    images.write_image(draft, picture)
    yield pair, pair[1], pack(run, "restore"), f"{facts} · done"


_RECORDED = (
    "operator", "method", "model", "prompt", "blur", "factor", "noise", "scale", "steps", "eta",
)  # fmt: skip


def _decoded(codec: Codec, x: Tensor) -> Tensor:
    with torch.no_grad():
        return codec.decode(x).float().cpu().clamp(0, 1)


def _enlarged(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A measurement at the size of the image, its pixels repeated."""
    return torch.nn.functional.interpolate(image, size, mode="nearest").float().cpu()


def _decibels(image: Tensor, truth: Tensor) -> float:
    return float(psnr(image.expand_as(truth).cpu(), truth.cpu()))


def build(site: Site) -> None:
    """The tab."""
    pixel = [name for name in names() if "pixel" in name]
    found = drawn(site.folder / "restore")
    tasks = ("downsample", "blur", "grey")
    rows = [[given[0], task] for given, task in zip(found, tasks, strict=True)]
    labels = [f"{given[2]}: {task}" for given, task in zip(found, tasks, strict=True)]
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            image = upload("damaged")
            fit = gr.Checkbox(True, label="Crop and resize", info="Else another size is refused.")
            damage = gr.Checkbox(
                True, label="Damage it first", info="Else the image is what was measured."
            )
            with gr.Row():
                operator = gr.Dropdown(
                    list(OPERATORS), value="downsample", label="What happened to it",
                    elem_id="operator",
                )  # fmt: skip
                method = gr.Dropdown(
                    list(METHODS), value=DEFAULT.method if pixel else "dps", label="Method"
                )
            with gr.Row():
                run = gr.Button("Restore", variant="primary", elem_id="restore", min_width=90)
                stop = gr.Button("Stop", variant="stop", min_width=80)
            with gr.Accordion("More", open=False):
                with gr.Row():
                    blur = gr.Slider(0.1, 16, DEFAULT.blur, step=0.1, label="Blur, pixels")
                    factor = gr.Slider(2, 16, DEFAULT.factor, step=1, label="Times smaller")
                with gr.Row():
                    noise = gr.Slider(0, 1, DEFAULT.noise, step=0.005, label="Noise")
                    eta = gr.Slider(0, 1, DEFAULT.eta, step=0.05, label="New noise a step")
                with gr.Row():
                    steps = gr.Slider(1, MOST_STEPS, DEFAULT.steps, step=1, label="Steps")
                    scale = gr.Slider(0, 20, DEFAULT.scale, step=0.1, label="Guidance scale")
                prompt = gr.Textbox(label="Prompt", info="For a model that reads prompts.")
                seed = gr.Number(0, label="Seed", precision=0)
                model = gr.Dropdown(
                    list(site.models), value=(pixel or site.models)[0], label="Model",
                    allow_custom_value=site.free, info="All but dps want a model of pixels.",
                )  # fmt: skip
            about = "The hole, for inpaint: paint where to fill"
            with gr.Accordion(about, open=False, elem_id="hole-box"):
                mask = editor(site, "hole", image, fit, model)
            gr.Examples(
                rows, [image, operator], example_labels=labels, cache_examples=False,
                label="Examples", api_visibility="private",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=300):
            pair, after, status, packed = compared()

    def started(
        image: Any, fit: Any, damage: Any, mask: Any, operator: Any, method: Any, blur: Any,
        factor: Any, noise: Any, eta: Any, steps: Any, scale: Any, prompt: Any, seed: Any,
        model: Any, request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        values = dict(image=image, fit=fit, damage=damage, mask=mask, operator=operator)
        values |= dict(method=method, blur=blur, factor=factor, noise=noise, eta=eta, steps=steps)
        values |= dict(scale=scale, prompt=prompt, seed=seed, model=model)
        with site.runs.working(request, TAB) as mine:
            yield from run_restore(site, mine, values)

    def stopped(request: gr.Request) -> None:
        if not site.runs.halt(request, TAB, final=True):
            raise ValueError("nothing is running here")

    fields = [image, fit, damage, mask, operator, method, blur, factor, noise, eta, steps, scale]
    run.click(
        spoken(started), [*fields, prompt, seed, model], [pair, after, packed, status],
        api_name="restore", show_progress="minimal", concurrency_limit=site.jobs,
        concurrency_id=DEVICE,
    )  # fmt: skip
    stop.click(spoken(stopped), None, None, api_name="stop_restore", queue=False)
