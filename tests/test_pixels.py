"""`shapes-pixel`: its recipe, end to end and tiny, and what the bundled weights are worth."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdstoolkit import Discrete, Prior, V, load, tweedie
from sdstoolkit.adapters import BUNDLED, names
from sdstoolkit.rng import generators, normal
from sdstoolkit.samplers.ddim import DDIM
from sdstoolkit.toy import data, pixels
from sdstoolkit.toy.cards import shapes_pixel
from sdstoolkit.toy.drawings import drawings

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
bundled = pytest.mark.skipif("shapes-pixel" not in names(), reason="its weights are not there")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    histories = pixels.train_shapes_pixel(
        folder / "run", folder / "model", drawings=128, steps=2, seed=3
    )
    assert histories["denoiser"].steps[-1] == 2
    card = shapes_pixel(drawings=128, seed=3, histories=histories)
    assert "Apache-2.0" in card and "128 drawings" in card and "| denoiser | 2 |" in card
    return folder


def test_the_folder_is_a_ddpm(trained: Path) -> None:
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(trained / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
    prior = load(trained / "model")
    assert prior.size == (32, 32) and isinstance(prior.score.parameterization, V)
    assert isinstance(prior.schedule, Discrete)
    assert 1e6 < sum(p.numel() for p in prior.score.parameters()) < 1.4e6


def test_a_finished_run_is_not_run_again(trained: Path) -> None:
    pixels.train_shapes_pixel(trained / "run", trained / "again", drawings=128, steps=2, seed=3)
    first, second = (load_file(trained / name / WEIGHTS) for name in ("model", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_drawings_are_halved_by_the_mean() -> None:
    drawn = drawings(4, degraded=0.0)
    assert (drawn.scenes.quality == data.CLEAN).all()
    image = drawn.pictures(slice(None))
    small = pixels.halved(drawn, slice(None))
    assert small.shape == (4, 3, 32, 32)
    corner = image[:, :, :2, :2].mean((2, 3))
    assert torch.allclose(small[:, :, 0, 0], corner)


@bundled
def test_the_weights_are_small_float32_and_described() -> None:
    folder = BUNDLED["shapes-pixel"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert all(value.dtype == torch.float32 for value in load_file(folder / WEIGHTS).values())
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert "Apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load("shapes-pixel")


@bundled
@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_denoising_gains_at_every_sigma(prior: Prior, sigma: float) -> None:
    """On drawings of combinations that training never saw; sigma in units of the image."""
    rng = torch.Generator().manual_seed(5)
    scenes = data.draw_scenes(8, rng, degraded=0.0, unseen=True)
    image = torch.nn.functional.avg_pool2d(data.render(scenes, rng), 2)
    noisy = image + sigma * torch.randn(image.shape, generator=rng)
    clean = tweedie.denoise_image(prior, noisy, sigma).x_0
    before, after = ((each - image).square().mean() for each in (noisy, clean))
    assert 10 * torch.log10(before / after) > (2 if sigma > 0.03 else 0.5)


@bundled
def test_blind_denoising_finds_the_noise(prior: Prior) -> None:
    rng = torch.Generator().manual_seed(6)
    image = torch.nn.functional.avg_pool2d(
        data.render(data.draw_scenes(8, rng, degraded=0.0), rng), 2
    )
    noisy = image + 0.1 * torch.randn(image.shape, generator=rng)
    found = tweedie.denoise_image(prior, noisy)
    # A median of n absolute values has a relative standard error of 1.17 / sqrt(n): three of them.
    error = 1.17 / (3 * 16 * 16) ** 0.5
    assert torch.allclose(found.sigma, torch.tensor(0.1).double(), rtol=3 * error)
    assert (found.x_0 - image).square().mean() < 0.4 * (noisy - image).square().mean()


@bundled
def test_draws_are_plain_backgrounds_with_something_on_them(prior: Prior) -> None:
    x = normal(generators(range(6), "sampler"), (3, 32, 32))
    image = prior.codec.decode(DDIM(prior.score, steps=25).sample(6, start=x))
    edge = torch.cat([image[:, :, 0], image[:, :, -1], image[:, :, :, 0], image[:, :, :, -1]], -1)
    colour = edge.median(-1, keepdim=True).values
    plain = ((edge - colour).abs().amax(1) < 0.15).float().mean(1)
    assert plain.mean() > 0.85  # the edge has one colour
    away = ((image - colour[..., None]).abs().amax(1) > 0.3).float().mean((1, 2))
    assert 0.01 < away.mean() < 0.4 and (away > 0.005).sum() >= 5  # and there is something inside
