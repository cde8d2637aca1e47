"""Edit: an image under one prompt becomes an image under another, in a mask if one is painted.

The methods are those of `sdstoolkit.edit`. What the report says is measured on the inversion of
the image along the probability flow, at guidance scale 1.
"""

import inspect
from collections.abc import Iterator
from dataclasses import fields as fields_of
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from sdstoolkit import ClassifierFree, ProbabilityFlow, _plugins, images, jobs
from sdstoolkit.cli import plugin
from sdstoolkit.condition import Condition
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import number, read_upload, spoken, text
from sdstoolkit.demos._site import DEVICE, Site, pack
from sdstoolkit.demos._watch import Watching
from sdstoolkit.edit import Edit, composite
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel
from sdstoolkit.toy import data

TITLE, PLACE = "Edit", 2
TAB = "edit"
SHOWN = 512  # pixels of the mask's side on the page
BRUSH = "#12b5cb"
MOST_STEPS = 200
EXAMPLES = (  # shape, colour, background; what it shall be
    ("heart", "red", "white", "a blue heart on a white background"),
    ("star", "yellow", "blue", "a red star on a blue background"),
    ("circle", "green", "black", "an orange circle on a black background"),
)


def editor(name: str, model: ScoreModel, null: Condition, scale: float, **options: Any) -> Edit:
    """A method by name, with those of the options that it takes."""
    kind = plugin("sdstoolkit.edit", name, Edit)
    taken = inspect.signature(kind).parameters
    guided = ClassifierFree(model, null, scale=scale)
    options |= {"guided": guided, "null": null, "scale": scale}
    given = {key: value for key, value in options.items() if key in taken}
    guides_itself = "guided" in taken or "scale" in taken
    return kind(model if guides_itself else guided, **given)


def painted(value: Any, size: tuple[int, int]) -> Tensor | None:
    """What was painted, as shares in [0, 1], [1, 1, h, w]; None where nothing was."""
    layers = (value or {}).get("layers") or []
    alpha = None
    for layer in layers:
        drawn = torch.frombuffer(bytearray(layer.getchannel("A").tobytes()), dtype=torch.uint8)
        seen = (drawn.reshape(1, 1, layer.height, layer.width) > 127).float()
        alpha = seen if alpha is None else torch.maximum(alpha, seen)
    if alpha is None or not alpha.any():
        return None
    return torch.nn.functional.interpolate(alpha, size, mode="area")


def example(shape: str, colour: str, background: str) -> tuple[Tensor, str]:
    """A drawing of one large object in the middle, and its caption."""
    rng = torch.Generator().manual_seed(0)
    scenes = data.draw_scenes(1, rng, pairs=0.0, degraded=0.0)
    places = {"shape": data.SHAPES, "colour": data.COLOUR_NAMES, "background": data.COLOUR_NAMES}
    wanted = {"shape": shape, "colour": colour, "background": background}
    parts = {f.name: getattr(scenes, f.name).clone() for f in fields_of(data.Scenes)}
    for key, names in places.items():
        parts[key][...] = names.index(wanted[key])
    parts["centre"][...], parts["radius"][...] = 32.0, 20.0
    parts["size"][...] = data.SIZES.index("large")
    caption = f"a {colour} {shape} on a {background} background"
    return data.render(data.Scenes(**parts), rng), caption


def run_edit(
    site: Site, run: Any, values: tuple[Any, ...], progress: gr.Progress
) -> Iterator[Any]:
    """Read, edit, show; then invert and report."""
    path, fit, mask_of, source, target, method, *numbers, reports, model = values
    strength, steps, scale, seed = numbers
    seed = int(number("the seed", seed, 0, 2**32 - 1, whole=True))
    steps = int(number("steps", steps, 1, MOST_STEPS, whole=True))
    strength = float(number("strength", strength, 0.01, 1))
    scale = float(number("the guidance scale", scale, -100, 100))
    source, target = text("the source prompt", source), text("the target prompt", target)
    prior = site.prior(model)
    image = read_upload(path, prior.size, fit=bool(fit)).to(prior.device)
    mask = painted(mask_of, prior.size)
    old, new = (prior.condition(p or None) for p in (source, target))
    score = Watching(prior.score, run, lambda n: progress((n, None), desc="editing", unit="calls"))
    kind = editor(method, score, prior.condition(None), scale, strength=strength, steps=steps)
    with torch.no_grad():
        x_0 = prior.codec.encode(image)
        edited = kind(x_0, old, new, seed=seed).to(x_0.dtype)
        shown = (
            prior.codec.decode(edited)
            if mask is None
            else composite(prior.codec, edited, mask.to(image), background=image, kept=x_0)
        )
    pair = (_pictures.picture(image), _pictures.picture(shown.clamp(0, 1)))
    facts = f"**{method}** · {score.calls} evaluations"
    facts += "" if mask is None else f" · {100 * float((mask > 0).float().mean()):.0f} % editable"
    yield pair, pair[1], None, f"{facts} · " + ("measuring ..." if reports else "done"), ""
    said = ""
    if reports:
        flow = ProbabilityFlow(score, steps=steps)
        inverted = flow.invert(x_0, old)
        said = str(flow.report(inverted, codec=prior.codec, image=image, iterations=0))
    options = dict(model=model, source=source, target=target, method=method, strength=strength)
    options |= dict(steps=steps, scale=scale, seed=seed, masked=mask is not None)
    zipped = keep(run, prior, options, image, shown, mask, said)
    yield gr.skip(), gr.skip(), zipped, f"{facts} · done", said  # equal images share a file


def keep(
    run: Any, prior: Prior, options: dict[str, Any], image: Tensor, shown: Tensor,
    mask: Tensor | None, said: str,
) -> str:  # fmt: skip
    """The folder of the edit, packed."""
    seed = options["seed"]
    job = jobs.Job(run.folder / "result", command="demo edit", options=options, seeds=(seed,))
    with job:
        job.note(model=prior.score.describe())
        job.keep(seed, shown.float().cpu(), state="done", steps=options["steps"])
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
    drawn = []
    folder = site.folder / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    for *scene, wanted in EXAMPLES:
        picture, caption = example(*scene)
        path = images.write_image(folder / f"{'-'.join(scene)}.png", picture)
        drawn.append([str(path), caption, wanted])
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            upload = gr.Image(
                label="Image", type="filepath", image_mode=None, format="png", height=240,
                sources=["upload", "clipboard"], elem_id="upload", elem_classes="pixelated",
            )  # fmt: skip
            fit = gr.Checkbox(False, label="Crop and resize", info="Else another size is refused.")
            source = gr.Textbox(label="What it shows", elem_id="source")
            target = gr.Textbox(label="What it shall show", elem_id="target")
            with gr.Row():
                run = gr.Button("Edit", variant="primary", elem_id="edit", min_width=90)
                stop = gr.Button("Stop", variant="stop", min_width=80)
            about = "Mask: paint where to edit; unpainted, everything is"
            with gr.Accordion(about, open=False, elem_id="mask-box"):
                mask = gr.ImageEditor(
                    label="Mask", type="pil", format="png",
                    sources=(), transforms=(), layers=False, canvas_size=(SHOWN, SHOWN),
                    fixed_canvas=True, height=420, elem_id="mask", buttons=[],
                    brush=gr.Brush(
                        default_size=48, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"
                    ),
                )  # fmt: skip
            with gr.Row():
                method = gr.Dropdown(
                    _plugins.names("sdstoolkit.edit"), value="prompt_swap", label="Method"
                )
                strength = gr.Slider(0.05, 1, 0.8, step=0.01, label="Strength")
            with gr.Accordion("More", open=False):
                with gr.Row():
                    steps = gr.Slider(1, MOST_STEPS, 50, step=1, label="Steps")
                    scale = gr.Slider(0, 20, 3, step=0.1, label="Guidance scale")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0)
                    reports = gr.Checkbox(True, label="Report on the inversion")
                model = gr.Dropdown(
                    list(site.models), value=site.models[0], label="Model",
                    allow_custom_value=site.free,
                )  # fmt: skip
            gr.Examples(
                drawn, [upload, source, target], cache_examples=False, label="Examples",
                api_visibility="private",
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
            status = gr.Markdown("Upload an image, or take an example.", elem_classes="said")
            said = gr.Textbox(
                label="What the inversion says of itself", lines=8, interactive=False,
                elem_classes="report", elem_id="report",
            )  # fmt: skip
            packed = gr.DownloadButton("Download the results", size="md")

    def ground(path: str | None, fitted: bool, name: str) -> Any:
        """The uploaded image as what is painted on, enlarged."""
        if path is None:
            return None
        image = read_upload(path, site.prior(name).size, fit=fitted)
        return _pictures.picture(image).resize((SHOWN, SHOWN), 0).convert("RGBA")

    fields = [upload, fit, mask, source, target, method, strength]
    fields += [steps, scale, seed, reports, model]

    def started(
        image: str, fit: bool, mask: Any, source: str, target: str, method: str, strength: float,
        steps: float, scale: float, seed: float, report: bool, model: str,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:  # fmt: skip
        values = (image, fit, mask, source, target, method, strength, steps, scale, seed, report)
        with site.runs.working(request, TAB) as mine:
            yield from run_edit(site, mine, (*values, model), progress)

    def stopped(request: gr.Request) -> None:
        if not site.runs.halt(request, TAB, final=True):
            raise ValueError("nothing is running here")

    gr.on(
        [upload.change, fit.change], spoken(ground), [upload, fit, model], mask,
        api_visibility="private", show_progress="hidden", queue=False,
    )  # fmt: skip
    run.click(
        spoken(started), fields, [pair, after, packed, status, said], api_name="edit",
        concurrency_limit=site.jobs, concurrency_id=DEVICE,
    )  # fmt: skip
    stop.click(spoken(stopped), None, None, api_name="stop_edit", queue=False)
