"""One random stream a seed and a purpose.

A batch is a list of seeds, and row i draws from generator i only,

    x[i] ~ N(0, I)   from the stream named (seed_i, purpose),

so that an image depends neither on its batch-mates nor on the number of processes (a generator
for each seed is Karras et al.'s habit, 2022, https://arxiv.org/abs/2206.00364). Numbers are drawn
on the CPU and then moved, so that a seed means the same on every device.

torch's CPU generator reads only 32 bits of its seed; hashing (seed, purpose) into them would give
two of 50 000 seeds the same stream with probability one in four. The map used here permutes the
32-bit integers, one permutation a purpose (a four-round Feistel network; Luby and Rackoff, 1988,
https://doi.org/10.1137/0217022): two seeds never share a stream, two purposes do by chance only.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import AnyTimes, State


def seeds_of(seed: int | Sequence[int], n: int) -> tuple[int, ...]:
    """The seeds of n rows: an int names seed, ..., seed + n - 1; a sequence names each of them.

    Args:
        seed: the first seed, or n distinct seeds; each in [0, 2^32).
        n: the number of rows, at least 1.

    Raises:
        ValueError: a seed out of range, a repeated seed, or another number of seeds than n.
    """
    if n < 1:
        raise ValueError(f"n = {n} rows were asked for; ask for at least 1.")
    seeds = tuple(range(seed, seed + n)) if isinstance(seed, int) else tuple(seed)
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds were given for {n} rows; give one int or {n} seeds.")
    if len(set(seeds)) != n:
        raise ValueError(f"The seeds {list(seeds)} are not distinct; equal seeds give equal rows.")
    if not all(isinstance(s, int) and 0 <= s < 2**32 for s in seeds):
        raise ValueError(f"The seeds {list(seeds)} are not all integers in [0, 2**32).")
    return seeds


def generators(seeds: Sequence[int], purpose: str) -> list[Generator]:
    """A CPU generator for each seed; the same seed for another purpose is another stream.

    Args:
        seeds: integers in [0, 2^32), see `seeds_of`.
        purpose: what the numbers are for, for example ``"canvas"`` or ``"noise"``.

    Raises:
        ValueError: a seed out of range.
    """
    streams = []
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"The seed {seed} is not an integer in [0, 2**32).")
        left, right = divmod(seed, 2**16)
        for turn in range(4):
            digest = sha256(f"{purpose}/{turn}/{right}".encode()).digest()
            left, right = right, left ^ int.from_bytes(digest[:2], "big")
        streams.append(Generator().manual_seed(left << 16 | right))
    return streams


def normal(
    rng: Sequence[Generator],
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> State:
    """Standard normal rows, eps[i] ~ N(0, I) from generator i only.

    Args:
        rng: one CPU generator a row.
        shape: shape of one row.
        dtype: of the result; drawn in float64 if that is float64, in float32 otherwise, then cast.
        device: of the result.

    Returns:
        Tensor of shape [len(rng), *shape].
    """
    drawn = torch.float64 if dtype == torch.float64 else torch.float32
    eps = torch.empty((len(rng), *shape), dtype=drawn)
    for row, generator in zip(eps, rng, strict=True):
        row.normal_(generator=generator)
    return eps.to(device=device, dtype=dtype)


def uniform(
    rng: Sequence[Generator], shape: Sequence[int] = (), *, device: torch.device | str = "cpu"
) -> AnyTimes:
    """Uniform rows, u[i] ~ U[0, 1) from generator i only, in float64.

    Args:
        rng: one CPU generator a row.
        shape: shape of one row; a number a row by default.
        device: of the result.

    Returns:
        Tensor of shape [len(rng), *shape].
    """
    u: Tensor = torch.empty((len(rng), *shape), dtype=torch.float64)
    for row, generator in zip(u, rng, strict=True):
        row.uniform_(generator=generator)
    return u.to(device)
