"""Optimise: an image grows under score distillation, and can be paused, resumed and stopped.

The steps are those of `sdstoolkit.optimize`, and the folder that is downloaded is one of `sds
optimize`: the command goes on from it, with more seeds for example.
"""

import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from sdstoolkit import Canvas, Distiller, _plugins, images, jobs, optimize
from sdstoolkit.choices import EDITING
from sdstoolkit.cli import plugin
from sdstoolkit.demos import _options, _pictures
from sdstoolkit.demos._guard import number, read_upload, spoken, text
from sdstoolkit.demos._site import DEVICE, Run, Site, pack
from sdstoolkit.demos._watch import Looks
from sdstoolkit.making import chosen, make_canvas, make_descent, make_loss
from sdstoolkit.pipelines._loading import Loading
from sdstoolkit.pipelines.optimize import Options
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal

TITLE, PLACE = "Optimise", 1
TAB = "optimize"
MOST_STEPS, MOST_IMAGES = 2000, 4
DEFAULT = Options(prompt="", out="")
OWN = [option.key for name in _options.names() for option in _options.options(name)]
ASKED = "prompt negative loss canvas steps scale lr seeds source shows model".split()
EXAMPLES = (
    "a red heart on a white background",
    "a large yellow star on a blue background",
    "a green circle on a black background",
    "a blue square left of an orange circle on a white background",
)


@dataclass
class Live:
    """An optimisation that is on its way."""

    options: Options
    prior: Prior
    canvas: Canvas
    loss: Distiller
    steps: Iterator[Any]
    points: list[tuple[float, float]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    done: int = 0
    spent: float = 0.0
    frozen: dict[int, int] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One a row."""
        return jobs.parse_seeds(self.options.seeds)


def begin(site: Site, run: Run, fields: tuple[Any, ...]) -> Live:
    """Everything checked, and nothing computed yet."""
    prompt, negative, loss, canvas, steps, scale, lr, seeds, source, shows, model, *own = fields
    loss, canvas = text("the loss", loss, needed=True), text("the canvas", canvas, needed=True)
    rows = jobs.parse_seeds(text("the seeds", seeds, needed=True))
    if len(rows) > MOST_IMAGES:
        raise ValueError(f"{len(rows)} seeds were given, expected {MOST_IMAGES} at most here")
    scale = float(number("the guidance scale", scale, -1000, 1000))
    given = _options.chosen((loss, canvas), dict(zip(OWN, own, strict=True)))
    if loss == "reward" and not given[loss].colour:
        raise ValueError("the loss reward needs a colour, expected for example 1,0,0")
    prior = site.prior(model)
    start = None if source is None else read_upload(source, prior.size, fit=True)
    if start is None and loss in EDITING:
        raise ValueError(f"the loss {loss} edits an image: upload one under 'Start from an image'")
    options = Options(
        prompt=text("the prompt", prompt),
        out=str(run.folder),
        model=model,
        loss=loss,
        canvas=canvas,
        seeds=seeds.strip(),
        steps=int(number("steps", steps, 1, MOST_STEPS, whole=True)),
        lr=number("the learning rate", lr, 0, 10) or None,
        scale=None if scale == suits(loss) else scale,
        negative_prompt=text("the negative prompt", negative),
        source="" if start is None else _kept(start, run),
        source_prompt=text("what the image shows", shows),
        loading=Loading(device=site.device),
        **given,
    )
    start = None if start is None else start.to(prior.device)
    made = make_canvas(options, prior, rows, start)
    follows = make_loss(options, prior, start)
    going = optimize(made, follows, steps=options.steps, **make_descent(options, made))
    return Live(options, prior, made, follows, going)


def suits(loss: str) -> float:
    """The guidance scale that a loss recommends."""
    return float(plugin("sdstoolkit.distill", loss, Distiller).card.scale)


def _kept(image: Tensor, run: Run) -> str:
    """What an image was started from, among what the run made."""
    return str(images.write_image(run.folder / "source.png", image))


def follow(run: Run) -> Iterator[tuple[Any, ...]]:
    """Go on to the end, or to where it is asked to halt, showing it now and then."""
    live: Live = run.live
    total, since, looks = live.options.steps, time.perf_counter(), Looks()
    try:
        for step in live.steps:
            live.done, live.frozen = step.index + 1, dict(step.frozen)
            last = run.halt.is_set() or live.done == total
            due = looks.due() or live.done == 1
            if last or due:
                live.points.append((live.done, step.loss))
                live.times.append(float(step.t.mean()) if step.t is not None else 0.5)
            if due and not last:
                spent = live.spent + time.perf_counter() - since
                yield (*_looks(live), None, _status(live, spent, "running"))
                looks.over()
            if last:  # it is shown below, once: gradio writes equal images to one file
                break
    finally:
        live.spent += time.perf_counter() - since
    over = run.final or live.done == total or len(live.frozen) == live.canvas.n
    said = "done" if live.done == total else "stopped" if over else "paused"
    packed = _keep(run, live, "done" if live.done == total else "interrupted")
    if over:
        run.live = None
    yield *_looks(live), packed, _status(live, live.spent, said)


def _looks(live: Live) -> tuple[Any, ...]:
    """The image, the model's guess of it at the time of this step, the gradient, the loss."""
    with torch.no_grad():
        image = live.canvas.image()
        x_0 = live.canvas.codec.encode(image)
        loss, last = live.loss, live.loss.last
        t = last.t if last is not None else torch.full((live.canvas.n,), 0.5)
        level = loss.model.level(t.cpu(), x_0)
        eps = normal(generators(live.seeds, f"look/{live.done}"), x_0.shape[1:]).to(x_0)
        guess = live.prior.codec.decode(loss.guided(level.perturb(x_0, eps), level).x_0)
    seen = last.gradient if last is not None else torch.zeros_like(x_0)
    label = f"mean squared residual; colour is t, {live.times[-1]:.2f} now"
    return (
        _tiled(image),
        _tiled(guess),
        _pictures.heat(seen, live.canvas.size),
        _pictures.curve(live.points, label=label, total=live.options.steps, shades=live.times),
    )


def _tiled(image: Tensor) -> Any:
    shown = image.detach().float().cpu().clamp(0, 1)
    return _pictures.picture(images.grid(shown) if len(shown) > 1 else shown)


def _status(live: Live, seconds: float, said: str) -> str:
    text = f"**{said}** · step {live.done} of {live.options.steps} · t {live.times[-1]:.2f}"
    text += f" · loss {live.points[-1][1]:.4f} · {live.done / max(seconds, 1e-9):.1f} steps/s"
    if live.frozen:
        text += f" · stopped being finite: {live.frozen}"
    return text


def _keep(run: Run, live: Live, state: str) -> str:
    """Write what there is as a folder of `sds optimize`, and pack it."""
    folder = run.folder / "result"
    job = jobs.Job(folder, command="optimize", options=chosen(live.options), seeds=live.seeds)
    with torch.no_grad():
        rows = live.canvas.image().float().cpu()
    with job:
        job.note(device=live.options.loading.device, model=live.prior.score.describe())
        for seed, row in zip(live.seeds, rows, strict=True):
            kept = "frozen" if seed in live.frozen else state
            job.keep(seed, row, state=kept, steps=live.frozen.get(seed, live.done))
    return pack(run, "optimize")


def build(site: Site) -> None:
    """The tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            prompt = gr.Textbox(
                EXAMPLES[0], label="Prompt", lines=2, info="What the image shows.", max_length=1000
            )
            with gr.Row():
                run = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                pause = gr.Button("Pause", elem_id="pause", min_width=80)
                resume = gr.Button("Resume", elem_id="resume", min_width=80)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=80)
            with gr.Row():
                steps = gr.Slider(1, MOST_STEPS, DEFAULT.steps, step=1, label="Steps")
                scale = gr.Slider(0, 200, suits(DEFAULT.loss), step=0.5, label="Guidance")
            with gr.Row():
                loss = gr.Dropdown(
                    _plugins.names("sdstoolkit.distill"), value=DEFAULT.loss, label="Loss",
                    elem_id="loss",
                )  # fmt: skip
                canvas = gr.Dropdown(
                    _plugins.names("sdstoolkit.canvas"), value=DEFAULT.canvas, label="Canvas",
                    elem_id="canvas",
                )  # fmt: skip
            used = (DEFAULT.loss, DEFAULT.canvas)
            groups = [_options.row(name, visible=name in used) for name in _options.names()]
            with gr.Accordion("More", open=False):
                negative = gr.Textbox(label="Negative prompt", info="What to steer away from.")
                with gr.Row():
                    seeds = gr.Textbox("0", label="Seeds", info=f"At most {MOST_IMAGES}: 0-3")
                    lr = gr.Number(0, label="Learning rate", info="0 is what suits.")
                model = gr.Dropdown(
                    list(site.models), value=site.models[0], label="Model",
                    allow_custom_value=site.free,
                )  # fmt: skip
                source = gr.Image(
                    label="Start from an image", type="filepath", image_mode=None, format="png",
                    height=180, sources=["upload", "clipboard"], elem_classes="pixelated",
                )  # fmt: skip
                shows = gr.Textbox(
                    label="What that image shows", info="For the losses that edit: "
                    + ", ".join(EDITING),
                )  # fmt: skip
            gr.Examples(
                [[words] for words in EXAMPLES],
                [prompt],
                cache_examples=False,
                label="Prompts that shapes knows; some seconds each",
                api_visibility="private",
            )
        with gr.Column(scale=5, min_width=300):
            with gr.Row():
                image = _view("Image", "image", 360)
            with gr.Row():
                guess = _view("The model's guess of x_0", "guess", 190)
                gradient = _view("Gradient", "gradient", 190)
            plot = gr.HTML(_pictures.curve([], label="loss", total=DEFAULT.steps), padding=False)
            status = gr.Markdown("Type a prompt and press **Run**.", elem_id="status")
            packed = gr.DownloadButton("Download the results", elem_id="download", size="md")

    fields = [prompt, negative, loss, canvas, steps, scale, lr, seeds, source, shows, model]
    fields += [each for _, made in groups for each in made]
    shown = [image, guess, gradient, plot, packed, status]

    def started(*given: Any) -> Iterator[Any]:
        *values, request = given
        with site.runs.working(request, TAB) as mine:
            mine.live = begin(site, mine, tuple(values))
            yield from follow(mine)

    _name(started, [*ASKED, *OWN])

    def resumed(request: gr.Request) -> Iterator[Any]:
        with site.runs.working(request, TAB, resume=True) as mine:
            yield from follow(mine)

    def paused(request: gr.Request) -> None:
        if not site.runs.halt(request, TAB, final=False):
            raise ValueError("nothing is running here")

    def stopped(request: gr.Request) -> Any:
        mine = site.runs.find(request, TAB)
        if not site.runs.halt(request, TAB, final=True):
            raise ValueError("nothing is running here")
        if mine is not None and not mine.busy and mine.live is not None:
            mine.live = None
            return "**stopped** · what was made is kept"
        return gr.skip()

    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False}
    loss.change(spoken(suits), loss, scale, **quiet)
    gr.on(
        [loss.change, canvas.change],
        lambda *used: [gr.update(visible=name in used) for name in _options.names()],
        [loss, canvas], [group for group, _ in groups], **quiet,
    )  # fmt: skip
    queue: dict[str, Any] = {"concurrency_limit": site.jobs, "concurrency_id": DEVICE}
    event = {"show_progress": "minimal", **queue}
    gr.on(
        [run.click, prompt.submit], spoken(started), fields, shown, api_name="optimize", **event
    )
    resume.click(spoken(resumed), None, shown, api_name="resume", **event)
    pause.click(spoken(paused), None, None, api_name="pause", queue=False)
    stop.click(spoken(stopped), None, status, api_name="stop", queue=False)


def _name(function: Any, names: list[str]) -> None:
    """Give what takes any number of fields their names, which are those of the interface."""
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    request = inspect.Parameter(
        "request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request
    )
    function.__signature__ = inspect.Signature([*parameters, request])
    function.__annotations__ = {"request": gr.Request}


def _view(label: str, name: str, height: int) -> gr.Image:
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        height=height,
        elem_id=name,
        elem_classes="pixelated",
        buttons=["download", "fullscreen"],
    )
