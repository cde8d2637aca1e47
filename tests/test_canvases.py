"""The canvases beside pixels and latents: gradients, rows, files; and views."""

import math
import re
from io import BytesIO

import pytest
import torch
from problems_distillation import Gaussian

from sdstoolkit import _plugins
from sdstoolkit.canvas import (
    Fourier,
    Latents,
    Network,
    Palette,
    Pixels,
    Siren,
    Splats,
    Strokes,
    Tile,
)
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.distill import SDS
from sdstoolkit.images import read_image
from sdstoolkit.optimization import optimize
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal
from sdstoolkit.views import LOOKS, Jigsaw, View, look_of


def prior(size=16, channels=3):
    return Prior(Gaussian(shape=(channels, size, size)), Codec(channels=channels))


def about(*m):
    m = torch.tensor(m, dtype=torch.float64)[:, None]
    return Condition({"m": m, "s": torch.full_like(m, 0.5)})


KINDS = {
    "fourier": lambda **o: Fourier(prior(), init_std=1.0, **o),
    "network": lambda **o: Network(prior(), width=6, levels=2, **o),
    "palette": lambda **o: Palette(prior(), **o),
    "siren": lambda **o: Siren(prior(), width=8, depth=2, **o),
    "splats": lambda **o: Splats(prior(), count=5, **o),
    "strokes": lambda **o: Strokes(prior(), paths=3, **o),
    "filled strokes": lambda **o: Strokes(prior(), paths=3, filled=True, **o),
    "tile": lambda **o: Tile(prior(), **o),
}
each = pytest.mark.parametrize("kind", KINDS)


def test_every_canvas_is_tested():
    files = {name.split()[-1] for name in KINDS} | {"pixels", "latents"}
    assert files == set(_plugins.names("sdstoolkit.canvas"))


@each
def test_shapes_ranges_and_rows(kind):
    canvas = KINDS[kind](n=3, seed=5)
    image = canvas.image()
    assert image.shape == (3, 3, 16, 16)
    assert canvas.x_0().shape == canvas.model_shape
    assert (image >= 0).all() and (image <= 1).all()
    assert all(len(p) == 3 and p.dtype == torch.float32 for p in canvas.parameters())
    weight = torch.rand(3, 16, 16)  # (a sum over an instance norm would have no gradient)
    (image[1] * weight).sum().backward()
    for name, p in canvas.named_parameters():
        if "opacity" not in name and not (kind == "filled strokes" and name == "width"):
            assert p.grad is not None and p.grad[1].any(), name
        if p.grad is not None:
            assert not p.grad[[0, 2]].any(), name


@each
def test_a_seed_is_the_same_alone_and_in_a_batch(kind):
    together = KINDS[kind](n=3, seed=4).double().image()
    for i in (0, 2):
        alone = KINDS[kind](seed=4 + i).double().image()[0]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-12)
    assert not torch.equal(together[0], together[1])


@each
def test_the_gradient_is_that_of_finite_differences(kind):
    canvas = KINDS[kind](seed=1).double()
    shown = canvas.soft if kind == "palette" else canvas.image  # straight through
    rng = generators([3], "direction")
    weight = normal(rng, (3, 16, 16), dtype=torch.float64)
    parameters = list(canvas.parameters())
    moves = [normal(rng, p.shape[1:], dtype=torch.float64) for p in parameters]
    (canvas.image() * weight).sum().backward()
    slope = sum(
        float((p.grad * move).sum())
        for p, move in zip(parameters, moves, strict=True)
        if p.grad is not None
    )

    def at(step):
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p += step * move
            value = float((shown() * weight).sum())
            for p, move in zip(parameters, moves, strict=True):
                p -= step * move
        return value

    h = 1e-6
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(slope, rel=1e-4, abs=1e-5)


@each
def test_a_state_goes_to_a_file_and_back(kind, tmp_path):
    canvas, other = KINDS[kind](n=2, seed=0), KINDS[kind](n=2, seed=7)
    torch.save(canvas.state_dict(), tmp_path / "canvas.pt")
    other.load_state_dict(torch.load(tmp_path / "canvas.pt", weights_only=True))
    assert torch.equal(other.image(), canvas.image())


@each
def test_a_file_shows_what_the_canvas_shows(kind, tmp_path):
    canvas = KINDS[kind]()
    image = read_image(canvas.save(tmp_path / "image.png"))
    assert (image - canvas.image()).abs().max() <= 0.5 / 255 + 1e-6
    assert read_image(KINDS[kind](n=2).save(tmp_path / "two.png")).shape[-1] > 2 * 16


@each
def test_a_loss_moves_it(kind):
    canvas = KINDS[kind](n=2)
    before = canvas.image().detach()
    loss = SDS(prior(), about(1.0))
    for step in optimize(canvas, loss, steps=3, lr=0.3):
        assert math.isfinite(step.loss)
    after = canvas.image()
    assert (after != before).flatten(1).any(1).all() and after.isfinite().all()


def test_fourier_moves_low_frequencies_farther():
    def moved(decay, wave):
        canvas = Fourier(prior(32), init_std=0, decay=decay).double()
        (torch.logit(canvas.image()) * wave).sum().backward()
        return float(canvas.theta.grad.square().sum().sqrt())

    x = torch.arange(32, dtype=torch.float64)
    slow, fast = (torch.cos(2 * math.pi * k * x / 32).expand(3, 32, 32) for k in (1, 8))
    assert moved(1.0, slow) / moved(1.0, fast) == pytest.approx(8, rel=1e-5)
    assert moved(0.0, slow) / moved(0.0, fast) == pytest.approx(1, rel=1e-5)


def test_siren_has_no_resolution():
    canvas = Siren(prior(), width=8)
    fine = canvas.image(size=(48, 48))
    torch.testing.assert_close(fine[..., 1::3, 1::3], canvas.image(), rtol=0, atol=1e-5)


def test_a_palette_is_kept_to_and_written(tmp_path):
    from PIL import Image

    canvas = Palette(prior(), colours="ff0000 00ff00 0000ff ffffff", cell=4)
    image = canvas.image()
    colours = {tuple(c) for c in image[0].detach().flatten(1).T.tolist()}
    assert colours <= {(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)} and len(colours) > 1
    assert torch.equal(image[..., 0, 0], image[..., 3, 3])
    for opened in (
        Image.open(canvas.save(tmp_path / "p.png")),
        Image.open(BytesIO(canvas.files(0)["palette.png"])),
    ):
        assert opened.mode == "P" and opened.size == (16, 16)
        assert opened.getpalette()[:12] == [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]
        assert {index for _, index in opened.getcolors()} <= {0, 1, 2, 3}


@pytest.mark.parametrize("filled", [False, True])
def test_an_svg_is_drawn_alike_by_another_renderer(filled, tmp_path):
    cairosvg = pytest.importorskip("cairosvg", reason="needs the cairo library", exc_type=OSError)
    canvas = Strokes(prior(48), paths=12, filled=filled, width=7.0, seed=2)
    path = canvas.save(tmp_path / "drawing.svg")
    cairosvg.svg2png(url=str(path), write_to=str(tmp_path / "drawing.png"))
    from PIL import Image

    Image.open(tmp_path / "drawing.png").convert("RGB").save(tmp_path / "flat.png")
    drawn = read_image(tmp_path / "flat.png")
    off = (drawn - canvas.image()).abs()
    assert drawn.shape == (1, 3, 48, 48)
    assert off.mean() < 0.01, off.mean()
    plain = (canvas.image() - canvas.image()[..., :1, :1]).abs().mean()
    assert plain > 5 * off.mean()  # there is something to see


def test_a_tile_has_no_seam():
    canvas = Tile(prior(32), init_std=2.0, n=8).double()
    rolled = Tile(prior(32), init_std=2.0, n=8).double()
    with torch.no_grad():  # by the coarsest cell: the grid of the pyramid moves with it
        for k, theta in enumerate(rolled.theta):
            theta.copy_(theta.roll((3 * 2**k, 2**k), (2, 3)))
    torch.testing.assert_close(rolled.image(), canvas.image().roll((12, 4), (2, 3)))
    image = canvas.image()
    for axis in (2, 3):
        steps = (image - image.roll(1, axis)).abs().transpose(0, axis).flatten(1).mean(1)
        seam, interior = steps[0], steps[4::4]  # the same place in a coarsest cell
        assert seam <= interior.mean() + 3 * interior.std()


def test_a_tile_is_rolled_for_a_loss_by_its_row_s_own_generator():
    canvas, other = Tile(prior(), n=2, seed=3), Tile(prior(), n=1, seed=4)
    first, second = canvas.x_0(), canvas.x_0()
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum((2, 3)), (2 * canvas.image() - 1).sum((2, 3)))
    assert torch.equal(other.x_0()[0], first[1])


REFUSED = {
    "std": (lambda: Fourier(prior(), init_std=-1.0), "init_std"),
    "decay": (lambda: Fourier(prior(), decay=-1.0), "decay"),
    "width": (lambda: Siren(prior(), width=0), "width is 0"),
    "cell": (lambda: Palette(prior(), cell=3), "cell is 3"),
    "colours": (lambda: Palette(prior(), colours="red"), "ff8000"),
    "one colour": (lambda: Palette(prior(), colours="ff8000"), "2 to 256"),
    "temperature": (lambda: Palette(prior(), temperature=0.0), "temperature"),
    "grey palette": (lambda: Palette(prior(channels=1)), "grey"),
    "levels": (lambda: Tile(prior(12), levels=4), "levels is 4"),
    "count": (lambda: Splats(prior(), count=0), "count is 0"),
    "depths": (lambda: Network(prior(), levels=5), "levels 5"),
    "paths": (lambda: Strokes(prior(), paths=0), "paths is 0"),
    "curves": (lambda: Strokes(prior(), curves=1, filled=True), "curves 1"),
    "grey strokes": (lambda: Strokes(prior(channels=1)), "grey"),
    "two drawings": (lambda: Strokes(prior(), n=2, paths=2).save("a.svg"), "one drawing"),
    "view": (lambda: look_of("upside"), "mirror"),
    "jigsaw": (lambda: Jigsaw(1), "pieces is 1"),
    "pieces": (lambda: Jigsaw(5)(torch.rand(1, 3, 16, 16)), "5 x 5"),
    "no view": (lambda: optimize(Pixels(prior()), []), "no view"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_sentence(name):
    wrong, word = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        wrong()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)


# Views


@pytest.mark.parametrize("name", LOOKS)
def test_a_view_is_undone_and_keeps_the_range(name):
    image = torch.rand(2, 3, 16, 16)
    seen = LOOKS[name](image)
    assert seen.shape == image.shape and not torch.equal(seen, image)
    assert torch.equal(seen.flatten(1).sort(1).values, image.flatten(1).sort(1).values) or (
        name == "negative" and torch.equal(1 - seen, 1 - (1 - image))
    )
    again = {"rotate90": "rotate270", "rotate270": "rotate90"}.get(name, name)
    if name != "jigsaw":
        torch.testing.assert_close(LOOKS[again](seen), image)


def test_views_add_their_gradients_and_mean_their_values():
    def run(losses, **options):
        canvas = Pixels(prior(), n=2, levels=1)
        sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
        start = canvas.theta[0].detach().clone()
        (step,) = optimize(canvas, losses, steps=1, optimizer=sgd)
        return canvas.theta[0].detach() - start, step

    def fixed(m):
        def loss(x_0, *, progress=0.0, rng=None):
            return (x_0 * torch.linspace(-m, 1, x_0.numel()).reshape(x_0.shape)).sum()

        return loss

    look = LOOKS["rotate90"]
    both, _ = run([View(lambda image: image, fixed(1.0)), View(look, fixed(3.0))])
    one, _ = run(fixed(1.0))
    other, _ = run([View(look, fixed(3.0))])
    torch.testing.assert_close(both, one + other)
    first, second = SDS(prior(), about(1.0)), SDS(prior(), about(-1.0))
    _, step = run([View(look, first), View(LOOKS["negative"], second)])
    torch.testing.assert_close(step.values, (first.last.values + second.last.values) / 2)
    assert step.t is None


def test_two_views_find_the_picture_that_is_right_in_both():
    """Upside down it should be the negative: the mean of the two pulls, exactly, on Gaussians."""
    canvas = Pixels(prior(4, 1), levels=1, n=32)
    losses = [
        View(lambda i: i, SDS(prior(4, 1), about(0.8), t_law=lambda u, p: u * 0 + 0.3)),
        View(LOOKS["negative"], SDS(prior(4, 1), about(0.2), t_law=lambda u, p: u * 0 + 0.3)),
    ]
    for _ in optimize(canvas, losses, steps=150, lr=lambda p: 0.1 * (1 - p)):
        pass
    # 0.8 in one view and -0.2 in the other: equal pulls meet at 0.3
    assert float(canvas.x_0().detach().mean()) == pytest.approx(0.3, abs=0.06)


def test_latents_have_no_view():
    with pytest.raises(ValueError, match="use Pixels"):
        next(optimize(Latents(prior()), [View(LOOKS["flip"], SDS(prior(), about(1.0)))]))
