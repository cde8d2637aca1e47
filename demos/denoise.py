"""Denoise: Gaussian noise is taken off an image by the posterior mean, in one evaluation.

Noise can be added first, to a clean image, so that what comes back can be measured against it.
"""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch

from sdstoolkit import images, jobs, tweedie
from sdstoolkit.adapters import names
from sdstoolkit.demos import _pictures
from sdstoolkit.demos._guard import number, read_upload, spoken, text
from sdstoolkit.demos._paint import compared, drawn, upload
from sdstoolkit.demos._site import DEVICE, Run, Site, pack
from sdstoolkit.pictures import psnr
from sdstoolkit.rng import generators, normal

TITLE, PLACE = "Denoise", 3
TAB = "denoise"


def run_denoise(site: Site, run: Run, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read, add noise if asked to, denoise, measure."""
    path, fit, added, sigma, prompt, seed, model = values
    added = float(number("the noise to add", added, 0, 1))
    sigma = float(number("sigma", sigma, 0, 1)) or added or None
    seed = int(number("the seed", seed, 0, 2**32 - 1, whole=True))
    prompt, prior = text("the prompt", prompt), site.prior(model)
    image = read_upload(path, prior.size, fit=bool(fit))
    if prior.codec.image_channels == 1:
        image = image.mean(1, keepdim=True)
    noisy = image + added * normal(generators([seed], "demo noise"), image.shape[1:])
    found = tweedie.denoise_image(
        prior, noisy.to(prior.device), sigma, prior.condition(prompt or None)
    )
    clean = found.x_0.float().cpu().clamp(0, 1)
    facts = f"sigma {'estimated as ' if sigma is None else ''}{float(found.sigma):.4f}"
    facts += f" · t {float(found.t):.3f} · one evaluation"
    if added:
        facts += f" · {float(psnr(noisy, image)):.1f} dB before"
        facts += f", {float(psnr(clean, image)):.1f} dB after"
    options = dict(model=model, sigma=sigma, added=added, seed=seed, prompt=prompt)
    job = jobs.Job(run.folder / "result", command="demo denoise", options=options, seeds=(seed,))
    with job:
        job.note(model=prior.score.describe())
        job.keep(seed, clean, state="done", steps=1, sigma=float(found.sigma))
        with job.file("noisy.png") as draft:
            images.write_image(draft, noisy)
    pair = (_pictures.picture(noisy), _pictures.picture(clean))
    return pair, pair[1], pack(run, "denoise"), facts


def build(site: Site) -> None:
    """The tab."""
    pixel = [name for name in names() if "pixel" in name]
    found = drawn(site.folder / "denoise")
    rows = [[path, 0.2] for path, _, _ in found]
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            image = upload("noisy")
            fit = gr.Checkbox(True, label="Crop and resize", info="Else another size is refused.")
            with gr.Row():
                added = gr.Slider(0, 1, 0.2, step=0.01, label="Noise to add first")
                sigma = gr.Slider(
                    0, 1, 0, step=0.005, label="Sigma", info="0: what was added, or estimated."
                )
            run = gr.Button("Denoise", variant="primary")
            with gr.Accordion("More", open=not pixel):
                prompt = gr.Textbox(label="Prompt", info="For a model that reads prompts.")
                seed = gr.Number(0, label="Seed of the noise", precision=0)
                model = gr.Dropdown(
                    list(site.models), value=(pixel or site.models)[0], label="Model of pixels",
                    allow_custom_value=site.free,
                    info="Noise of pixels is not Gaussian in the space of a latent model.",
                )  # fmt: skip
            gr.Examples(
                rows, [image, added], example_labels=[name for _, _, name in found],
                cache_examples=False, label="Examples", api_visibility="private",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=300):
            pair, after, status, packed = compared()

    def started(
        image: Any, fit: Any, added: Any, sigma: Any, prompt: Any, seed: Any, model: Any,
        request: gr.Request,
    ) -> Iterator[Any]:  # fmt: skip
        values = (image, fit, added, sigma, prompt, seed, model)
        with site.runs.working(request, TAB) as mine, torch.no_grad():
            yield run_denoise(site, mine, values)

    run.click(
        spoken(started), [image, fit, added, sigma, prompt, seed, model],
        [pair, after, packed, status], api_name="denoise", concurrency_limit=site.jobs,
        concurrency_id=DEVICE,
    )  # fmt: skip
