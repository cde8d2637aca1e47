"""Scores: a density in the plane, its exact score beside one that a network has learnt; a walk.

Annealed Langevin dynamics starts in noise and follows the score, the exact or the learnt one,
level by level; the points are drawn on the density they should settle on.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image as Pillow
from torch import Tensor

from sdstoolkit import VE, AnnealedLangevin, Karras, ScoreModel, images, plots
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import number, spoken
from sdstoolkit.demos._site import DEVICE, Site
from sdstoolkit.demos._watch import Stopped
from sdstoolkit.toy import POINTS, Empirical, Mixture, MLPScore, train

TITLE, PLACE = "Scores", 5
TAB = "scores"
MIXTURE = "mixture"
DENSITIES = (MIXTURE, *POINTS)
EXTENT = 3.6
BLUR = 0.1  # of the points of a data set, whose smoothed law is the exact density
MOST_TRAINING = 2000
EXACT, LEARNED = "exact", "learned"


def density(name: str) -> Mixture | Empirical:
    """A density in the plane by name."""
    if name == MIXTURE:
        means = [[-1.6, -0.8], [1.7, 0.9], [0.3, -2.0]]
        return Mixture(means=means, std=0.35, weights=[0.3, 0.5, 0.2])
    if name not in POINTS:
        raise ValueError(f"there is no density {name!r}, expected one of {', '.join(DENSITIES)}")
    return Empirical(POINTS[name](600, seed=0), BLUR)


def learn(law: Mixture | Empirical, steps: int) -> tuple[ScoreModel, float]:
    """A network that has learnt the score from draws, and its last loss."""
    net = MLPScore(2, VE(sigma_min=0.02, sigma_max=10.0), Karras(sigma_data=1.5))
    model, history = train(net, law.sample(8000, seed=1), steps=steps, warmup=min(100, steps))
    return model, history.losses[-1]


def walk(site: Site, run: Any, values: tuple[Any, ...]) -> Iterator[Any]:
    """Learn, compare the fields, walk."""
    name, follows, steps, levels, inner, count, t, seed = values
    steps = int(number("training steps", steps, 0, MOST_TRAINING, whole=True))
    levels = int(number("levels", levels, 2, 100, whole=True))
    inner = int(number("steps a level", inner, 1, 50, whole=True))
    count = int(number("points", count, 1, 4000, whole=True))
    seed = int(number("the seed", seed, 0, 2**32 - 1 - count, whole=True))
    t = float(number("t", t, 0, 1))
    if follows not in (EXACT, LEARNED):
        raise ValueError(f"the score is {follows!r}, expected {EXACT} or {LEARNED}")
    if follows == LEARNED and steps == 0:
        raise ValueError("a network that has learnt nothing has no score, expected training steps")
    law = density(name)
    ground = _pictures.plane(law.log_prob, extent=EXTENT)
    yield _pictures.picture(ground), None, None, "learning ..." if steps else "walking ..."
    schedule = VE(sigma_min=0.02, sigma_max=10.0)
    exact = law.under(schedule)
    learned, loss = learn(law, steps) if steps else (exact, float("nan"))
    with torch.no_grad():
        fields = {"exact score": lambda x: exact(x, t).score.float()}
        if steps:
            fields["learned score"] = lambda x: learned(x, t).score.float()
        picture, error = _compare(law, exact, learned, fields, t)
        facts = f"loss {loss:.3f} · error of the learned x_0 at t = {t:.2f}: {100 * error:.1f} %"
        facts = f"{facts} · " if steps else ""
        yield gr.skip(), picture, None, f"{facts}walking ..."
        model = exact if follows == EXACT else learned
        sampler = AnnealedLangevin(model, levels=levels, steps=inner)
        frames, shown = [], 0.0
        for k, x in enumerate(sampler.steps(count, seed=seed)):
            if run.halt.is_set():
                raise Stopped("stopped")
            frames.append(_pictures.dots(ground, x, extent=EXTENT))
            now = time.perf_counter()
            if now - shown > 0.2:
                shown = now
                said = f"{facts}level {min(k, levels)} of {levels}"
                yield _pictures.picture(frames[-1]), gr.skip(), None, said
    file = images.write_animation(run.folder / "walk.webp", frames + frames[-1:] * 8, fps=12)
    yield _pictures.picture(frames[-1]), gr.skip(), str(file), f"{facts}{count} points, done"


def _compare(
    law: Any, exact: ScoreModel, learned: ScoreModel, fields: dict[str, Any], t: float
) -> tuple[Any, float]:
    """The fields side by side over the density at t, and the relative error of x_0 under it."""
    with tempfile.TemporaryDirectory() as folder:
        path = plots.score_field(
            Path(folder) / "fields.png", fields, extent=(-EXTENT, EXTENT),
            log_prob=lambda x: exact.log_prob(x.double(), t).float(),
        )  # fmt: skip
        with Pillow.open(path) as opened:
            picture = opened.convert("RGB")
    x_0 = law.sample(500, seed=2)
    level = exact.level(t, x_0)
    x_t = level.perturb(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3)))
    a, b = learned(x_t, level).x_0, exact(x_t, level).x_0
    spread: Tensor = x_0.var(0).sum()
    return picture, float(((a - b).square().sum(1).mean() / spread).sqrt())


def build(site: Site) -> None:
    """The tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            name = gr.Dropdown(list(DENSITIES), value=MIXTURE, label="Density")
            follows = gr.Radio([EXACT, LEARNED], value=LEARNED, label="Follow the score")
            with gr.Row():
                run = gr.Button("Walk", variant="primary", elem_id="walk", min_width=90)
                stop = gr.Button("Stop", variant="stop", min_width=80)
            with gr.Row():
                steps = gr.Slider(
                    0, MOST_TRAINING, 600, step=10, label="Training steps", info="Of the network."
                )
                t = gr.Slider(0, 1, 0.35, step=0.01, label="Time t of the fields")
            with gr.Row():
                levels = gr.Slider(2, 100, 40, step=1, label="Noise levels")
                inner = gr.Slider(1, 50, 10, step=1, label="Steps a level")
            with gr.Row():
                count = gr.Slider(10, 4000, 800, step=10, label="Points")
                seed = gr.Number(0, label="Seed", precision=0)
        with gr.Column(scale=5, min_width=300):
            image = gr.Image(
                label="The walk", format="png", interactive=False, height=420, elem_id="plane",
                elem_classes="smooth", buttons=["download", "fullscreen"],
            )  # fmt: skip
            status = gr.Markdown("Choose a density and press **Walk**.", elem_classes="said")
            fields = gr.Image(
                label="The scores at t", format="png", interactive=False, height=300,
                elem_classes="smooth", buttons=["download", "fullscreen"],
            )  # fmt: skip
            packed = gr.DownloadButton("Download the animation", size="md")

    def started(
        density: Any, follows: Any, training: Any, levels: Any, steps: Any, points: Any,
        t: Any, seed: Any, request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        values = (density, follows, training, levels, steps, points, t, seed)
        with site.runs.working(request, TAB) as mine:
            yield from walk(site, mine, values)

    def stopped(request: gr.Request) -> None:
        if not site.runs.halt(request, TAB, final=True):
            raise ValueError("nothing is running here")

    run.click(
        spoken(started), [name, follows, steps, levels, inner, count, t, seed],
        [image, fields, packed, status], api_name="scores", concurrency_limit=site.jobs,
        concurrency_id=DEVICE,
    )  # fmt: skip
    stop.click(spoken(stopped), None, None, api_name="stop_scores", queue=False)
