"""The loop: fixed points, seeds, rows that stop, and what a step costs."""

import math
import re
from functools import partial

import pytest
import torch
from problems_distillation import Gaussian, alpha_sigma, gaussian_moments, guided_fixed_point
from torch.utils._python_dispatch import TorchDispatchMode

from sdstoolkit._adam import Adam
from sdstoolkit.canvas import Latents, Pixels
from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.distill import SDS
from sdstoolkit.optimization import CosineDecay, optimize
from sdstoolkit.prior import Prior
from sdstoolkit.views import View, as_it_is

SGD = partial(torch.optim.SGD, lr=0.1)


def about(*m, s=0.5):
    m = torch.tensor(m, dtype=torch.float64)[:, None]
    return Condition({"m": m, "s": torch.full_like(m, s)})


def prior(size=4):
    return Prior(Gaussian(shape=(1, size, size)), Codec(channels=1))


def at(index):
    return lambda u, progress: torch.full_like(u, index / 999)


def run(canvas, loss, **options):
    return list(optimize(canvas, loss, **options))[-1]


@pytest.mark.parametrize("count", [1, 3])
def test_adam_is_that_of_torch_to_the_bit(count):
    rng = torch.Generator().manual_seed(0)
    first = [torch.randn(2, 5 + k, generator=rng) for k in range(count)]
    mine, theirs = ([torch.nn.Parameter(v.clone()) for v in first] for _ in range(2))
    ours = Adam(mine, 0.1, (0.9, 0.99), eps=1e-15)
    adam = torch.optim.Adam(theirs, lr=0.1, betas=(0.9, 0.99), eps=1e-15)
    for step in range(8):
        for k, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            p.grad = None if k == 1 and step % 2 else torch.randn(p.shape, generator=rng)
            q.grad = p.grad
        for optimizer in (ours, adam):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimizer.step()
        if step == 3:  # what goes on from a state goes on the same way
            other = Adam(mine, 0.1, (0.9, 0.99), eps=1e-15)
            other.load_state_dict(adam.state_dict())
            ours = other
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
    assert not torch.equal(mine[0], first[0])


# Where it ends


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_it_ends_at_the_fixed_point_of_guidance(scale):
    """Every pixel is an independent run; within four standard errors (seed 0)."""
    alpha, sigma = alpha_sigma(400)
    truth = float(guided_fixed_point(scale, 1.0, 0.3, 1.0, alpha, sigma))
    canvas = Latents(prior(32)).double()
    negative = None if scale == 1 else about(0.0, s=1.0)
    wanted = about(1.0, s=0.3)
    loss = SDS(prior(32), wanted, negative=negative, scale=scale, t_law=at(400))
    run(canvas, loss, steps=150, lr=CosineDecay(0.5, final=0.02), optimizer=SGD)
    error = float(canvas.theta.detach().std()) / 32
    assert float(canvas.theta.detach().mean()) == pytest.approx(truth, abs=4 * error)
    assert error < 0.01


def test_a_rate_leaves_the_noise_that_it_should():
    """SGD on a linear drift k and noise of variance V ends at variance lr V / (k (2 - lr k))."""
    alpha, sigma = alpha_sigma(400)
    lr, s = 0.5, 0.5
    k, variance = gaussian_moments(1.0, 0.0, s, alpha, sigma, sigma**2)
    canvas = Latents(prior(64)).double()
    run(canvas, SDS(prior(64), about(0.0, s=s), t_law=at(400)), steps=60, lr=lr, optimizer=SGD)
    expected = float(lr * variance / (k * (2 - lr * k)))
    found = float(canvas.theta.detach().var())
    assert found == pytest.approx(expected, rel=4 * math.sqrt(2 / 64**2))


def test_a_rate_that_falls_takes_the_noise_out():
    def spread(lr):
        canvas = Latents(prior(32), init_std=0)
        run(canvas, SDS(prior(32), about(0.0), t_law=at(400)), steps=100, lr=lr)
        return float(canvas.theta.detach().std())

    assert spread(CosineDecay(0.05, warmup=0.1)) < 0.7 * spread(0.05)


# Seeds


@pytest.mark.parametrize("kind", [Pixels, Latents])
def test_the_same_seed_is_the_same_to_the_bit(kind):
    def image():
        canvas = kind(prior(), n=2, seed=3)
        run(canvas, SDS(prior(), about(1.0)), steps=15)
        return canvas.image()

    assert torch.equal(image(), image())


@pytest.mark.parametrize("kind", [Pixels, Latents])
@pytest.mark.parametrize("augmented", [False, True])
def test_a_seed_is_the_same_alone_and_in_a_batch(kind, augmented):
    def jitter(image):
        return image + 0.1 * torch.randn(1, 1, 1, 1)

    augment = jitter if augmented and kind is Pixels else None

    def image(n, seed):
        canvas = kind(prior(), n=n, seed=seed).double()
        loss = SDS(prior(), about(1.0), negative=about(0.0), scale=7.5)
        run(canvas, loss, steps=15, augment=augment)
        return canvas.image().detach()

    together = image(8, 0)
    for k in (0, 5, 7):
        torch.testing.assert_close(image(1, k)[0], together[k], rtol=0, atol=1e-12)
    torch.testing.assert_close(image(2, (7, 5)), together[[7, 5]], rtol=0, atol=1e-12)


def test_the_noise_has_the_canvas_s_seeds_unless_told():
    def image(**options):
        canvas = Latents(prior(), n=2, seed=(4, 9))
        run(canvas, SDS(prior(), about(1.0)), steps=5, **options)
        return canvas.image()

    assert torch.equal(image(), image(seed=(4, 9)))
    assert not torch.equal(image(), image(seed=0))


def test_augmentation_is_drawn_for_a_row_and_leaves_no_trace():
    seen = []

    def augment(image):
        seen.append((len(image), torch.rand(()).item()))
        return image

    def draws(seed, n):
        seen.clear()
        run(Pixels(prior(), n=n, seed=seed), SDS(prior(), about(1.0)), steps=2, augment=augment)
        return list(seen)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    together = draws(0, 3)
    assert torch.equal(torch.rand(3), expected)
    assert [rows for rows, _ in together] == [1] * 6
    assert len({u for _, u in together}) == 6
    assert draws(1, 1) == [together[1], together[4]]


def test_augmentation_of_kornia_keeps_its_gradient():
    kornia = pytest.importorskip("kornia.augmentation")
    augment = kornia.RandomAffine(degrees=20.0, p=1.0)
    canvas = Pixels(prior(8), n=2)
    before = canvas.image().detach()
    run(canvas, SDS(prior(8), about(1.0)), steps=2, augment=augment)
    assert (canvas.image() != before).any()


# Rows that stop


class Breaks(SDS):
    """After some calls the residual of one row is not finite."""

    def __init__(self, *args, row, after, value=math.nan, **options):
        super().__init__(*args, **options)
        self.row, self.left, self.value = row, after, value

    def residual(self, x_0, x_t, level, eps):
        residual = super().residual(x_0, x_t, level, eps)
        if self.left == 0 and self.row < len(residual):
            residual[self.row, 0, 0, 0] = self.value
        self.left -= 1 if self.left > 0 else 0
        return residual


@pytest.mark.parametrize("kind", [Pixels, Latents])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_breaks_keeps_its_last_good_state(kind, value):
    canvas, reference = (kind(prior(), n=3, seed=5) for _ in range(2))
    states = []
    broken = Breaks(prior(), about(1.0), row=1, after=7, value=value)
    steps = optimize(canvas, broken, steps=20, check_every=5)
    others = optimize(reference, SDS(prior(), about(1.0)), steps=20)
    for step, other in zip(steps, others, strict=True):
        states.append(canvas.image().detach().clone())
        assert step.alive.tolist() == [True, step.index < 7, True]
        assert step.frozen == ({6: 7} if step.index >= 9 else {})
        assert torch.equal(canvas.image()[[0, 2]], reference.image()[[0, 2]])
        assert math.isfinite(step.loss)
        if step.index >= 7:
            assert step.loss == pytest.approx(other.values[[0, 2]].mean().item())
            assert torch.equal(canvas.image()[1], states[6][1])
    assert step.index == 19
    assert all(p.isfinite().all() for p in canvas.parameters())


def test_a_step_too_far_is_taken_back():
    canvas = Latents(prior(), n=2, seed=0)

    def loss(x_0, *, progress=0.0, rng=None):
        return (x_0[0].sum() + 1e30 * x_0[1].sum()) * 1.0

    before = canvas.theta.detach().clone()
    step = run(canvas, loss, steps=2, lr=1e20, optimizer=SGD)
    assert torch.equal(canvas.theta[1], before[1])
    assert step.alive.tolist() == [True, False]
    assert step.frozen == {1: 0}


def test_it_ends_when_no_row_is_left():
    canvas = Latents(prior(), n=1, seed=2)
    loss = Breaks(prior(), about(1.0), row=0, after=3)
    steps = list(optimize(canvas, loss, steps=50, check_every=10))
    assert len(steps) == 10
    assert steps[-1].frozen == {2: 3}
    assert math.isnan(steps[-1].loss)
    assert canvas.theta.isfinite().all()


# What a step says


def test_steps_are_lazy_and_say_what_the_loss_said():
    canvas = Latents(prior(), n=2)
    loss = SDS(prior(), about(1.0))
    steps = optimize(canvas, loss, steps=4)
    before = canvas.theta.detach().clone()
    assert torch.equal(canvas.theta, before)  # nothing happens until it is asked for
    kept = []
    for step in steps:
        assert torch.equal(step.values, loss.last.values)
        assert torch.equal(step.t, loss.last.t)
        assert step.canvas is canvas
        kept.append((step, step.loss))
    assert [step.index for step, _ in kept] == [0, 1, 2, 3]
    assert {step.steps for step, _ in kept} == {4}
    assert [step.loss for step, _ in kept] == [value for _, value in kept]  # nothing is reused
    assert kept[0][1] == pytest.approx(kept[0][0].values.mean().item())


def test_nothing_is_read_from_the_device_until_somebody_looks():
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def loss(x_0, *, progress=0.0, rng=None):
        return x_0.square().sum()

    with Reads() as reads:
        steps = optimize(Latents(prior()), loss, steps=10, lr=0.1, optimizer=SGD, check_every=7)
        reads.count = 0
        step = list(steps)[-1]  # (the look at the rows itself is a tolist, not counted here)
        assert reads.count == 0
        assert math.isfinite(step.loss)
        assert reads.count == 1


def test_progress_and_rate_follow_the_steps():
    seen, rates = [], []

    def loss(x_0, *, progress=0.0, rng=None):
        seen.append(progress)
        return x_0.sum()

    def lr(progress):
        rates.append(progress)
        return 0.1 * (1 - progress)

    canvas = Latents(prior(), init_std=0)
    run(canvas, loss, steps=4, lr=lr, optimizer=SGD)
    assert seen == [0, 0.25, 0.5, 0.75]
    assert rates[-4:] == seen
    torch.testing.assert_close(canvas.theta, torch.full_like(canvas.theta, -0.25))


def test_a_parameter_that_is_x_0_gets_the_gradient_that_goes_another_way_too():
    """What optimize puts there itself is what autograd would: summed over views, hooks called."""

    class Through(Latents):
        def x_0(self, augment=None):
            return 1.0 * super().x_0(augment)

    losses = [SDS(prior(), about(1.0)), SDS(prior(), about(-1.0))]
    views = [View(as_it_is, loss) for loss in losses]

    def halve(theta):
        theta.grad /= 2

    def ended(kind, hook=None, after=None):
        canvas = kind(prior(), n=2)
        if hook is not None:
            canvas.theta.register_hook(hook)
        if after is not None:
            canvas.theta.register_post_accumulate_grad_hook(after)
        run(canvas, views, steps=3, lr=0.1, optimizer=SGD)
        return canvas.theta.detach()

    assert torch.equal(ended(Latents), ended(Through))
    halved = ended(Latents, hook=lambda g: g / 2)
    assert torch.equal(halved, ended(Through, hook=lambda g: g / 2))
    assert torch.equal(halved, ended(Latents, after=halve))
    assert not torch.equal(halved, ended(Latents))


def test_a_loss_with_a_forward_of_its_own_is_asked_for_it():
    class Twice(SDS):
        def forward(self, x_0, **options):
            return 2 * super().forward(x_0, **options)

    def moved(kind):
        canvas = Latents(prior(), init_std=0)
        run(canvas, kind(prior(), about(1.0)), steps=1, lr=0.1, optimizer=SGD)
        return canvas.theta.detach()

    assert torch.equal(moved(Twice), 2 * moved(SDS))
    twice = Twice(prior(), about(1.0))
    views = [View(as_it_is, twice), View(as_it_is, lambda x_0, **_: 0 * x_0.sum())]
    step = run(Latents(prior(), init_std=0), views, steps=1)
    assert step.loss == pytest.approx(2 * twice.last.values.mean().item(), rel=1e-6)


def test_a_sum_of_losses_is_a_loss():
    first, second = SDS(prior(), about(1.0)), SDS(prior(), about(-1.0))

    def loss(x_0, *, progress=0.0, rng=None):
        return first(x_0, progress=progress, rng=rng) + second(x_0, progress=progress, rng=rng)

    canvas = Latents(prior(), n=2)
    step = run(canvas, loss, steps=3)
    total = first.last.values.mean() + second.last.values.mean()
    assert step.loss == pytest.approx(total.item(), rel=1e-5)
    assert step.t is None


def test_cosine_decay():
    lr = CosineDecay(2.0, warmup=0.2, final=0.1)
    assert lr(0.0) == 0
    assert lr(0.1) == pytest.approx(1.0)
    assert lr(0.2) == pytest.approx(2.0)
    assert lr(0.6) == pytest.approx(2.0 * 0.55)
    assert lr(1.0) == pytest.approx(0.2)
    assert CosineDecay(2.0)(0.0) == 2.0


OPTIONS = [
    ({"lr": math.nan}, "lr is nan"),
    ({"lr": 0.0}, "lr is 0.0"),
    ({"lr": -0.1}, "lr is -0.1"),
    ({"lr": lambda progress: math.nan}, "lr is nan"),
    ({"lr": -1.0, "optimizer": SGD}, "lr is -1.0"),
    ({"steps": 0}, "steps is 0"),
    ({"check_every": 0}, "check_every is 0"),
    ({"seed": (1, 2, 3)}, "3 seeds"),
]


def refuses(wrong, word):
    with pytest.raises(ValueError, match=re.escape(word)) as caught:
        wrong()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not re.search(r"\. [A-Z]", message)


@pytest.mark.parametrize(("options", "word"), OPTIONS, ids=[word for _, word in OPTIONS])
def test_a_wrong_option_is_refused_at_once_in_one_sentence(options, word):
    canvas, loss = Latents(prior(), n=2), SDS(prior(), about(1.0))
    refuses(lambda: optimize(canvas, loss, **options), word)


def test_what_cannot_be_optimised_is_refused_in_one_sentence():
    def constant(x_0, *, progress=0.0, rng=None):
        return x_0.detach().sum()

    canvas = Latents(prior(), n=2)
    refuses(lambda: run(canvas, constant), "does not depend on the canvas")
    canvas.requires_grad_(False)
    refuses(lambda: optimize(canvas, SDS(prior(), about(1.0))), "the canvas's 2 rows")


def test_a_wrong_decay_is_refused_in_one_sentence():
    refuses(lambda: CosineDecay(0.0), "lr is 0.0")
    refuses(lambda: CosineDecay(0.1, warmup=1.0), "warmup is 1.0")
    refuses(lambda: CosineDecay(0.1, final=2.0), "final is 2.0")
