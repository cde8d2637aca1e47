"""Canvases: rows and seeds, where they start, and what a step of Adam does to a frequency."""

import math
import re

import pytest
import torch
from problems_distillation import Gaussian
from torch.nn import functional

from sdstoolkit import _plugins
from sdstoolkit.canvas import Canvas, Latents, Pixels
from sdstoolkit.codec import Codec
from sdstoolkit.distill import SDS
from sdstoolkit.images import read_image
from sdstoolkit.optimization import optimize
from sdstoolkit.prior import Prior


class Halves(Codec):
    """Like an autoencoder's: twelve channels at half the size, exactly invertible."""

    def __init__(self):
        super().__init__()
        self.multiple, self.channels = 2, 12
        self.decoded = 0
        self.register_parameter("weight", torch.nn.Parameter(torch.ones(1)))

    def _encode(self, image):
        return functional.pixel_unshuffle(2 * image - 1, 2) * self.weight

    def _decode(self, x_0):
        self.decoded += 1
        return (functional.pixel_shuffle(x_0 / self.weight, 2) + 1) / 2


def pixel_prior(size=16, channels=3):
    return Prior(Gaussian(shape=(channels, size, size)), Codec(channels=channels))


def latent_prior(size=16):
    return Prior(Gaussian(shape=(12, size // 2, size // 2)), Halves())


KINDS = [
    lambda **options: Pixels(pixel_prior(), **options),
    lambda **options: Pixels(latent_prior(), **options),
    lambda **options: Latents(pixel_prior(), **options),
    lambda **options: Latents(latent_prior(), **options),
]


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_ranges_and_rows(kind):
    canvas = kind(n=3, seed=5)
    image, x_0 = canvas.image(), canvas.x_0()
    assert image.shape == (3, 3, 16, 16)
    assert x_0.shape == canvas.model_shape
    assert x_0.requires_grad
    if isinstance(canvas, Pixels):
        assert (image > 0).all() and (image < 1).all()
    assert canvas.seeds == (5, 6, 7)
    assert all(len(p) == 3 and p.dtype == torch.float32 for p in canvas.parameters())
    # row i of the image is row i of the parameters
    x_0[1].square().sum().backward()
    for p in canvas.parameters():
        assert p.grad[1].any()
        assert not p.grad[[0, 2]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_the_same_alone_and_in_a_batch(kind):
    together = kind(n=4, seed=3).image()
    assert torch.equal(together, kind(n=4, seed=(3, 4, 5, 6)).image())
    for i in range(4):
        torch.testing.assert_close(kind(seed=3 + i).image()[0], together[i], rtol=0, atol=1e-6)
        alone, batch = kind(seed=3 + i).state_dict(), kind(n=4, seed=3).state_dict()
        assert all(torch.equal(alone[key][0], batch[key][i]) for key in batch)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_are_no_part_of_a_canvas(kind):
    canvas = kind()
    assert all(name.startswith("theta") for name, _ in canvas.named_parameters())
    assert all(key.startswith("theta") for key in canvas.state_dict())
    other = kind(seed=9)
    other.load_state_dict(canvas.state_dict())
    assert torch.equal(other.image(), canvas.image())
    assert canvas.double().image().dtype == torch.float64


@pytest.mark.parametrize("levels", [1, 3, 5])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_pixels_start_from_an_image_to_a_quarter_of_a_grey_level(levels, decay):
    init = torch.rand(1, 3, 16, 16).mul(255).round() / 255
    init[0, :, 0, 0], init[0, :, 0, 1] = 0, 1
    canvas = Pixels(pixel_prior(), n=2, init=init, levels=levels, decay=decay)
    off = (canvas.image() - init).abs()
    assert off.max() <= 1 / 1020 + 1e-6
    inside = (init > 0) & (init < 1)
    assert off[inside.expand_as(off)].max() <= 1e-6
    assert torch.equal((canvas.image() * 255).round() / 255, init.expand(2, -1, -1, -1))


def test_latents_start_from_an_image_or_from_noise():
    init = torch.rand(2, 3, 16, 16)
    canvas = Latents(latent_prior(), n=2, init=init)
    torch.testing.assert_close(canvas.image(), init)
    wide = Latents(latent_prior(64), init_std=2.0).theta
    assert float(wide.detach().std()) == pytest.approx(2.0, rel=4 / math.sqrt(2 * wide.numel()))
    assert not Latents(latent_prior(), init_std=0).theta.any()


def test_pixels_start_from_grey_and_a_little_noise():
    for options in ({"decay": 1.0}, {"decay": 0.5}, {"levels": 1}):
        u = torch.logit(Pixels(pixel_prior(64), init_std=0.2, **options).image().detach())
        assert abs(float(u.mean())) < 0.1  # the coarsest grid has 48 numbers
        assert 0.08 < float(u.std()) < 0.21  # interpolation takes a part of the coarse noise
    assert torch.equal(Pixels(pixel_prior(), init_std=0).image(), torch.full((1, 3, 16, 16), 0.5))


def test_latents_decode_when_somebody_looks_and_not_before():
    prior = latent_prior()
    canvas = Latents(prior)
    canvas.x_0().sum().backward()
    assert prior.codec.decoded == 0
    canvas.image()
    assert prior.codec.decoded == 1


def test_sizes_need_not_be_square_nor_powers_of_two():
    for size, expected in ((12, (12, 12)), ((14, 22), (14, 22))):
        assert Pixels(latent_prior(), size=size).image().shape[-2:] == expected
        assert Latents(latent_prior(), size=size).image().shape[-2:] == expected
    odd = Pixels(pixel_prior(), size=(5, 27), levels=3)
    assert [tuple(grid.shape[2:]) for grid in odd.grids()] == [(2, 7), (3, 14), (5, 27)]
    assert odd.image().shape[-2:] == (5, 27)


def test_grey_images_have_one_channel():
    assert Pixels(pixel_prior(channels=1)).image().shape == (1, 1, 16, 16)


def test_interpolation_is_that_of_torch():
    canvas = Pixels(pixel_prior(), size=(16, 24), levels=3, decay=1.0, init_std=1.0)
    u, *finer = canvas.grids()
    for theta in finer:
        u = functional.interpolate(u, theta.shape[2:], mode="bilinear", align_corners=False)
        u = u + theta
    torch.testing.assert_close(canvas.image(), torch.sigmoid(u), rtol=1e-6, atol=1e-6)


def test_default_levels_go_down_to_four_pixels():
    for size, coarsest in ((2, 2), (4, 4), (7, 4), (12, 6), (16, 4), (63, 4), (64, 4)):
        assert min(Pixels(pixel_prior(size)).grids()[0].shape[2:]) == coarsest


def test_a_step_of_adam_moves_what_is_smooth_farther():
    def moved(levels, decay, direction):
        canvas = Pixels(pixel_prior(), levels=levels, decay=decay, init_std=0).double()
        adam = torch.optim.Adam(canvas.parameters(), lr=0.01)
        (torch.logit(canvas.image()) * direction).sum().backward()
        adam.step()
        return -(torch.logit(canvas.image()) * direction).mean().item() / 0.01

    flat = torch.ones(16, 16, dtype=torch.float64)
    for levels in (1, 2, 3):
        assert moved(levels, 1.0, flat) == pytest.approx(levels, rel=1e-6)
        gains = sum(0.5**k for k in range(levels))
        assert moved(levels, 0.5, flat) == pytest.approx(gains, rel=1e-6)


def test_the_metric_prefers_low_frequencies():
    """J J^T, what plain descent moves u by, on waves of two to sixteen pixels of any phase."""
    x = torch.arange(16, dtype=torch.float64)
    for levels in (1, 3):
        canvas = Pixels(pixel_prior(), levels=levels, decay=1.0, init_std=0).double()
        gains = []
        for period in (16, 8, 4, 2):
            moved = []
            for phase in (0.1, 0.35, 0.6, 0.85):
                wave = torch.cos(2 * math.pi * x / period + math.pi * phase)
                wave = (wave / wave.norm()).expand(16, 16) / 4
                canvas.zero_grad()
                (torch.logit(canvas.image())[0, 0] * wave).sum().backward()
                moved.append(canvas.theta.grad.square().sum().item())
            gains.append(sum(moved) / len(moved))
        if levels == 1:
            assert gains == pytest.approx([1] * 4, rel=1e-6)
        else:
            assert gains == sorted(gains, reverse=True)
            assert gains[0] > 10
            assert gains[-1] < 1.3


class Strided(Codec):
    """A random network with overlapping strides, like an autoencoder's encoder: 32 -> 8 pixels."""

    def __init__(self):
        super().__init__()
        self.multiple, self.channels = 4, 12
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(3, 16, 3, 2, 1)
            self.second = torch.nn.Conv2d(16, 12, 3, 2, 1)

    def _encode(self, image):
        return 5 * self.second(functional.silu(self.first(2 * image - 1)))


def test_a_pyramid_keeps_the_encoder_s_noise_out_of_the_image():
    """All end where the latents are right; what differs is what the encoder hardly sees."""
    x = torch.linspace(-1, 1, 32)
    disc = torch.sigmoid(20 * (0.5 - torch.hypot(x[:, None], x)))
    target = torch.stack([0.9 - 0.1 * disc, 0.9 - 0.8 * disc, 0.9 - 0.7 * disc])[None]
    codec = Strided()

    class Peak(Gaussian):
        def output(self, x_t, level, condition):
            v = level.alpha**2 * 0.04 + level.sigma**2
            return level.sigma * (x_t - level.alpha * codec.encode(target)) / v

    prior = Prior(Peak(shape=(12, 8, 8)), codec)
    rough, off = [], []
    for levels in (1, None):
        canvas = Pixels(prior, levels=levels)
        for _ in optimize(canvas, SDS(prior), steps=120, lr=0.1):
            pass
        with torch.no_grad():
            error = canvas.image() - target
            off.append(float((canvas.x_0() - codec.encode(target)).square().mean().sqrt()))
        smooth = functional.interpolate(
            functional.avg_pool2d(error, 4), scale_factor=4, mode="bilinear", align_corners=False
        )
        rough.append(float((error - smooth).square().mean().sqrt()))
    assert max(off) < 0.1
    assert rough[1] < rough[0] / 5


def test_augmentation_lies_between_image_and_codec():
    prior = latent_prior()
    canvas = Pixels(prior, n=2)
    expected = prior.codec.encode(canvas.image().flip(-1))
    assert torch.equal(canvas.x_0(lambda image: image.flip(-1)), expected)


@pytest.mark.parametrize("n", [1, 3])
def test_saving(tmp_path, n):
    canvas = Pixels(pixel_prior(), n=n, init_std=2.0)
    path = canvas.save(tmp_path / "image.png")
    image = read_image(path)
    if n == 1:
        assert (image - canvas.image()).abs().max() <= 0.5 / 255 + 1e-6
    else:
        assert image.shape == (1, 3, 2 * 18 + 2, 2 * 18 + 2)
    assert canvas.theta.requires_grad


REFUSED = {
    "init size": (lambda k: k(init=torch.rand(1, 3, 8, 8)), "expected [1, 3, 16, 16]"),
    "init rows": (lambda k: k(n=4, init=torch.rand(2, 3, 16, 16)), "[1 or 4, 3, 16, 16]"),
    "init channels": (lambda k: k(init=torch.rand(1, 1, 16, 16)), "expected [1, 3, 16, 16]"),
    "init no batch": (lambda k: k(init=torch.rand(3, 16, 16)), "expected [1, 3, 16, 16]"),
    "init range": (lambda k: k(init=torch.full((1, 3, 16, 16), 1.5)), "outside [0, 1]"),
    "init nan": (lambda k: k(init=torch.full((1, 3, 16, 16), torch.nan)), "outside [0, 1]"),
    "no rows": (lambda k: k(n=0), "at least 1"),
    "seeds": (lambda k: k(n=3, seed=(1, 2)), "2 seeds"),
    "same seeds": (lambda k: k(n=2, seed=(1, 1)), "distinct"),
    "spread": (lambda k: k(init_std=-1.0), "init_std"),
    "spread nan": (lambda k: k(init_std=math.nan), "init_std"),
}
OWN = {
    "size": (lambda: Pixels(latent_prior(), size=15), "multiples of 2"),
    "no size": (lambda: Latents(pixel_prior(), size=0), "0 x 0"),
    "no levels": (lambda: Pixels(pixel_prior(), levels=0), "1 (plain pixels) to 5"),
    "levels": (lambda: Pixels(pixel_prior(), levels=6), "1 (plain pixels) to 5"),
    "decay": (lambda: Pixels(pixel_prior(), decay=0.0), "decay"),
    "augment": (lambda: Latents(latent_prior()).x_0(lambda image: image), "use Pixels"),
}


def refuses(wrong, word):
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        wrong()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(kind, name):
    wrong, word = REFUSED[name]
    refuses(lambda: wrong(kind), word)


@pytest.mark.parametrize("name", OWN)
def test_what_is_wrong_with_one_kind_too(name):
    refuses(*OWN[name])


def test_a_canvas_is_a_file():
    assert {"latents", "pixels"} <= set(_plugins.names("sdstoolkit.canvas"))
    assert issubclass(Pixels, Canvas)
    assert "n=1, size=(16, 16), channels=3" in repr(Pixels(pixel_prior()))
