import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdstoolkit.rng import generators, normal, seeds_of, uniform

SEEDS = st.integers(0, 2**32 - 1)


def test_seeds() -> None:
    assert seeds_of(7, 3) == (7, 8, 9)
    assert seeds_of([5, 2], 2) == (5, 2)


@pytest.mark.parametrize(
    ("seed", "n"),
    [(0, 0), ([1, 2], 3), ([1, 1], 2), (-1, 2), ([3, -3], 2), (2**32 - 1, 2), ([0.5], 1)],
)
def test_bad_seeds(seed: int | list[int], n: int) -> None:
    with pytest.raises((ValueError, TypeError)):
        seeds_of(seed, n)


def test_bad_generator_seed() -> None:
    with pytest.raises(ValueError, match="2\\*\\*32"):
        generators([2**32], "noise")


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=6, unique=True), size=st.integers(0, 40))
def test_a_row_depends_on_its_generator_only(seeds: list[int], size: int) -> None:
    together = normal(generators(seeds, "noise"), (2, size))
    u = uniform(generators(seeds, "noise"), (3,))
    for k, seed in enumerate(seeds):
        assert torch.equal(together[k], normal(generators([seed], "noise"), (2, size))[0])
        assert torch.equal(u[k], uniform(generators([seed], "noise"), (3,))[0])


def test_no_two_seeds_share_a_stream() -> None:
    seeds = [*range(3000), *range(2**32 - 500, 2**32)]
    streams = [g.initial_seed() for g in generators(seeds, "noise")]
    assert len(set(streams)) == len(seeds)
    assert all(0 <= s < 2**32 for s in streams)  # all that torch reads of a seed


def test_purposes_do_not_share_numbers() -> None:
    canvas, noise = (normal(generators([3], purpose), (4096,))[0] for purpose in ("canvas", "eps"))
    assert abs(float((canvas * noise).mean())) < 4 / 64
    assert torch.isin(canvas, noise).sum() < 5


def test_moments_dtypes_and_order() -> None:
    rng = generators(range(4), "noise")
    x = normal(rng, (50_000,), dtype=torch.float64)
    assert x.dtype == torch.float64 and x.shape == (4, 50_000)
    assert (x.mean(1).abs() < 0.02).all() and ((x.var(1) - 1).abs() < 0.03).all()
    u = uniform(rng)
    assert u.dtype == torch.float64 and u.shape == (4,) and ((u >= 0) & (u < 1)).all()
    assert not torch.equal(u, uniform(rng))  # a generator goes on
    half = normal(generators([1], "noise"), (8,), dtype=torch.bfloat16)
    assert torch.equal(half, normal(generators([1], "noise"), (8,)).bfloat16())


def test_streams_are_pinned() -> None:
    """A seed keeps its picture from release to release."""
    streams = [g.initial_seed() for g in generators([0, 1, 2], "noise")]
    assert streams == [676888590, 3032876474, 1600372177]
