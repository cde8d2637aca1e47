"""Noise levels and noise schedules.

A schedule is the Gaussian kernel that takes a clean x_0 to a noisy x_t,

    p(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I),   t in [0, 1],   sigma_t / alpha_t increasing,

and nothing else: t = 0 is (nearly) clean, t = 1 (nearly) noise. Neither alpha^2 + sigma^2 = 1 nor
alpha_0 = 1 nor sigma_0 = 0 is assumed. The same kernel is the marginal of the forward SDE

    dx = f(t) x dt + g(t) dW,   f = d log(alpha) / dt,   g^2 = d(sigma^2) / dt - 2 f sigma^2

(Song et al., 2021, https://arxiv.org/abs/2011.13456). Times are float64 whatever the state is: in
bfloat16 the index of a table of 1000 betas moves by half a step. Only this module knows a beta.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdstoolkit._typing import AnyTimes


class NoiseLevel(NamedTuple):
    """How noisy each row is; alpha and sigma are ready to multiply a state.

    Attributes:
        t: times in [0, 1], float64 [n], on the state's device.
        alpha, sigma: [n, 1, ..., 1], float32 or float64.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def fraction(self) -> Tensor:
        """The noise fraction u = sigma / (alpha + sigma), in [0, 1]."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def ratio(self) -> Tensor:
        """The noise-to-signal ratio sigma / alpha, in [0, inf]."""
        return self.sigma / self.alpha

    def perturb(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """A draw from the kernel, x_t = alpha x_0 + sigma eps, for x_0 and eps [n, *shape].

        Raises:
            ValueError: x_0, eps and the level do not have the same rows and shape.
        """
        if x_0.shape != eps.shape or len(x_0) != len(self.t):
            shapes = f"x_0 {list(x_0.shape)} and eps {list(eps.shape)}"
            raise ValueError(f"{shapes} do not fit each other and a level of {len(self.t)} rows.")
        return self.alpha * x_0 + self.sigma * eps


Check = Callable[[NoiseLevel], None]


class Schedule(ABC):
    """A noise schedule, alpha and sigma as functions of t; a new one writes `__call__` only.

    The rest follows by autograd and by bisection, unless a subclass has a closed form.
    """

    @abstractmethod
    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma), float64, at float64 times in [0, 1] of any shape."""

    def level(self, t: float | Tensor, like: Tensor, *, check: Check | None = None) -> NoiseLevel:
        """The noise level of a batch: alpha and sigma broadcast once, here and nowhere else.

        Args:
            t: one time for all rows or a time a row, [n]; in [0, 1]. It is checked where it is:
                on the CPU, as this library's grids and laws are, that waits for no device.
            like: the state, [n, *shape], whose rows, device and dtype the level fits.
            check: called with the level, in float64 and still where t is, before it moves.

        Raises:
            ValueError: a time is NaN or outside [0, 1], or t has another number of rows.
        """
        t, n = torch.as_tensor(t, dtype=torch.float64), len(like)
        if t.ndim and t.shape != (n,):
            raise ValueError(f"t {list(t.shape)} does not fit {n} rows; give one time or {n}.")
        inside = t.clamp(0, 1)
        if not inside.equal(t):  # nor is a NaN equal
            raise ValueError(f"t = {t[t != inside][0]:.6g} is not in [0, 1], the range of times.")
        alpha, sigma = self(t)
        if check is not None:
            check(NoiseLevel(t, alpha, sigma))
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        shape = (n,) + (1,) * (like.ndim - 1)
        alpha, sigma = (
            v.to(like.device, dtype, non_blocking=True).expand(n).reshape(shape)
            for v in (alpha, sigma)
        )
        return NoiseLevel(t.to(like.device, non_blocking=True).expand(n), alpha, sigma)

    def log_snr(self, t: float | Tensor) -> AnyTimes:
        """log(alpha^2 / sigma^2) at times of any shape; decreasing, maybe infinite at the ends."""
        alpha, sigma = self(torch.as_tensor(t, dtype=torch.float64))
        return 2 * (alpha.log() - sigma.log())

    def time(self, log_snr: float | Tensor) -> AnyTimes:
        """The inverse of `log_snr`: when alpha^2 / sigma^2 is exp(log_snr).

        Args:
            log_snr: between log_snr(1) and log_snr(0), any shape. What is outside by rounding
                (1e-9 in time) is that end.

        Raises:
            ValueError: a level that the schedule does not reach.
        """
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        t = self._time(log_snr)
        inside = t.clamp(0, 1)
        reached = (t - inside).abs() <= 1e-9  # a NaN is not
        if not reached.all():
            ends = ", ".join(f"{self.log_snr(end):.6g}" for end in (1.0, 0.0))
            raise ValueError(f"log_snr = {log_snr[~reached][0]:.6g} is not within [{ends}].")
        return inside

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        """The inverse without its checks; outside of [0, 1] (or NaN) where there is none."""
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        outside = (log_snr > self.log_snr(low)) | (log_snr < self.log_snr(high)) | log_snr.isnan()
        for _ in range(64):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return torch.where(outside, torch.nan, (low + high) / 2)

    def drift(self, t: float | Tensor) -> AnyTimes:
        """The forward SDE's f = d log(alpha) / dt at times of any shape."""
        return _derivative(lambda s: self(s)[0].log(), t)

    def diffusion(self, t: float | Tensor) -> AnyTimes:
        """The forward SDE's g, g^2 = d(sigma^2) / dt - 2 f sigma^2, at times of any shape."""
        sigma = self(torch.as_tensor(t, dtype=torch.float64))[1]
        growth = _derivative(lambda s: self(s)[1].square(), t)
        return (growth - 2 * self.drift(t) * sigma.square()).sqrt()

    def describe(self) -> dict[str, object]:
        """The schedule's name and numbers, for a manifest."""
        return {"name": type(self).__name__, **vars(self)}


class _VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, hence g^2 = -2 f."""

    def diffusion(self, t: float | Tensor) -> AnyTimes:
        return (-2 * self.drift(t)).sqrt()


@dataclass(frozen=True, kw_only=True)
class VP(_VariancePreserving):
    """The variance-preserving SDE with a linear beta, DDPM's limit.

        alpha^2 = exp(-B),  sigma^2 = 1 - alpha^2,  B(t) = beta_min t + (beta_max - beta_min) t^2/2

    Ho, Jain and Abbeel, 2020, https://arxiv.org/abs/2006.11239; Song et al.

    Args:
        beta_min, beta_max: beta at t = 0 and at t = 1, 0 < beta_min <= beta_max.

    Raises:
        ValueError: they are out of range.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"{self} needs 0 < beta_min <= beta_max.")

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        B = self._integral(t)
        return torch.exp(-B / 2), torch.sqrt(-torch.expm1(-B))

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        return self._when(torch.log1p(torch.exp(-log_snr)))

    def _integral(self, t: AnyTimes) -> AnyTimes:
        return t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2)

    def _when(self, B: AnyTimes) -> AnyTimes:
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * B))


@dataclass(frozen=True, kw_only=True)
class SubVP(VP):
    """The sub-variance-preserving SDE, with VP's alpha and less noise.

        alpha^2 = exp(-B),   sigma = 1 - alpha^2,   g^2 = beta (1 - exp(-2 B))

    Song et al.
    """

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        B = self._integral(t)
        return torch.exp(-B / 2), -torch.expm1(-B)

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        return self._when(2 * torch.asinh(torch.exp(-log_snr / 2) / 2))

    diffusion = Schedule.diffusion  # not VP's: alpha^2 + sigma^2 < 1


@dataclass(frozen=True, kw_only=True)
class VE(Schedule):
    """The variance-exploding SDE: the signal keeps its scale under geometric noise.

        alpha = 1,   sigma = sigma_min (sigma_max / sigma_min)^t

    Song and Ermon, 2019, https://arxiv.org/abs/1907.05600; Song et al.

    Args:
        sigma_min, sigma_max: noise at t = 0 and at t = 1, 0 < sigma_min < sigma_max.

    Raises:
        ValueError: the sigmas are out of range.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"{self} needs 0 < sigma_min < sigma_max.")

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        return 0 * t + 1, self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (-log_snr / 2 - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class EDM(VE):
    """The noise levels of EDM: as VE, but linear after a root of order rho > 0.

        alpha = 1,   sigma^(1/rho) = (1 - t) sigma_min^(1/rho) + t sigma_max^(1/rho)

    Karras, Aittala, Aila and Laine, 2022, https://arxiv.org/abs/2206.00364.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho > 0:
            raise ValueError(f"{self} needs rho > 0.")

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return 0 * t + 1, (low + t * (high - low)) ** self.rho

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (torch.exp(-log_snr / (2 * self.rho)) - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class Cosine(_VariancePreserving):
    """The cosine schedule, with alpha(1) = 0.

        alpha = cos(a) / cos(a_0),   sigma^2 = 1 - alpha^2,   a = (t + s) / (1 + s) pi / 2

    Nichol and Dhariwal, 2021, https://arxiv.org/abs/2102.09672, with no beta clipped.

    Args:
        s: offset that keeps the first noises from being too small, above 0.

    Raises:
        ValueError: s is out of range.
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        if not self.s > 0:
            raise ValueError(f"{self} needs s > 0.")

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        unit = math.pi / 2 / (1 + self.s)
        a_0 = self.s * unit
        alpha = torch.sin((1 - t) * unit) / math.cos(a_0)  # cos(a), exactly zero at t = 1
        variance = torch.sin(t * unit) * torch.sin(t * unit + 2 * a_0)  # cos(a_0)^2 - cos(a)^2
        return alpha, variance.sqrt() / math.cos(a_0)

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        unit = math.pi / 2 / (1 + self.s)
        a_0 = self.s * unit
        cotangent = math.cos(a_0) / torch.sqrt(math.sin(a_0) ** 2 + torch.exp(-log_snr))
        return 1 - torch.atan(cotangent) / unit


@dataclass(frozen=True)
class Rectified(Schedule):
    """The straight path from data to noise; alpha(1) = 0.

        alpha = 1 - t,   sigma = t

    Liu, Gong and Liu, 2022, https://arxiv.org/abs/2209.03003.
    """

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        return 1 - t, t

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        return torch.sigmoid(-log_snr / 2)


class Discrete(_VariancePreserving):
    """The table of a DDPM checkpoint, at every real index; entry k is t = k / (T - 1).

        alpha = sqrt(abar(k)),   sigma = sqrt(1 - abar(k)),   k = (T - 1) t

    with log(abar) linear between the entries (Lu et al., 2022, https://arxiv.org/abs/2206.00927)
    and, where a table ends in abar = 0 (zero terminal SNR; Lin et al., 2024,
    https://arxiv.org/abs/2305.08891), the angle atan2(sigma, alpha) linear in the last cell.
    sigma(0) is the first entry's: small (0.029 for Stable Diffusion), not zero.

    Args:
        alphas_cumprod: abar, [T], strictly decreasing, in [0, 1].

    Raises:
        ValueError: the table is not such a list.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        abar = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64)
        decreasing = abar.ndim == 1 and len(abar) > 1 and bool((abar.diff() < 0).all())
        if not decreasing or not (abar[0] <= 1 and abar[-1] >= 0):
            given = f"alphas_cumprod {list(abar.shape)}"
            raise ValueError(f"{given} is not a list that falls strictly and stays in [0, 1].")
        self.steps, self.alphas_cumprod = len(abar), abar
        self._log_abar = abar.log()
        self._zero_terminal = bool(abar[-1] == 0)
        if self._zero_terminal:  # its last cell goes by the angle from pure noise
            self._angle = math.asin(math.sqrt(abar[-2]))
            self._log_abar[-1] = self._log_abar[-2] - 1  # finite; its value is never used

    def timestep(self, t: float | Tensor) -> AnyTimes:
        """The real index k = (T - 1) t, what such a network is called with; any shape."""
        return torch.as_tensor(t, dtype=torch.float64) * (self.steps - 1)

    def __call__(self, t: AnyTimes) -> tuple[AnyTimes, AnyTimes]:
        """The kernel's (alpha, sigma)."""
        k = self.timestep(t)
        cell = k.long().clamp(0, self.steps - 2)
        log_abar = self._log_abar.to(t.device)
        log = torch.lerp(log_abar.take(cell), log_abar.take(cell + 1), k - cell)
        alpha, sigma = torch.exp(log / 2), torch.sqrt(-torch.expm1(log))
        if self._zero_terminal:
            last, angle = cell == self.steps - 2, (cell + 1 - k) * self._angle
            alpha = torch.where(last, angle.sin(), alpha)
            sigma = torch.where(last, angle.cos(), sigma)
        return alpha, sigma

    def _time(self, log_snr: AnyTimes) -> AnyTimes:
        log = -torch.log1p(torch.exp(-log_snr))
        log_abar = self._log_abar.to(log.device)
        cell = (torch.searchsorted(-log_abar, -log, right=True) - 1).clamp(0, self.steps - 2)
        start = log_abar[cell]
        k = cell + (log - start) / (log_abar[cell + 1] - start)
        if self._zero_terminal:
            angle = torch.atan(torch.exp(log_snr / 2))
            k = torch.where(cell == self.steps - 2, cell + 1 - angle / self._angle, k)
        return k / (self.steps - 1)

    def describe(self) -> dict[str, object]:
        """The table's length and ends, for a manifest."""
        ends = self.alphas_cumprod[[0, -1]].tolist()
        return {"name": "Discrete", "steps": self.steps, "alphas_cumprod": ends}


def _derivative(f: Callable[[Tensor], Tensor], t: float | Tensor) -> AnyTimes:
    """df/dt, element by element, also where gradients are off."""
    with torch.inference_mode(False), torch.enable_grad():
        t = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        return torch.autograd.grad(f(t).sum(), t)[0]
