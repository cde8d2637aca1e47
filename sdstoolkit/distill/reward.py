"""RewardSDS: several noises at one time, weighted by what they make of the image.

    G = sum_i a_i G(eps_i),   a = a(R(decode(x_0_hat_i)))

The noises whose posterior means a reward likes count more. With a constant reward and weights that
sum to one it is the mean of as many SDS gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdstoolkit._typing import State
from sdstoolkit.codec import Codec
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.rewards import Reward
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.rng import normal
from sdstoolkit.score import ScoreModel

__all__ = ["Best", "Choice", "Extremes", "RewardSDS", "Softmax"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()

Choice = Callable[[Tensor], Tensor]
"""Rewards [n, N] to the weights of the noises, [n, N]."""


@dataclass(frozen=True)
class Softmax:
    """a = softmax(R / temperature), which sums to one.

    Args:
        temperature: above 0.
    """

    temperature: float = 1.0

    def __call__(self, rewards: Tensor) -> Tensor:
        """The weights, [n, N]."""
        return (rewards / self.temperature).softmax(1)


@dataclass(frozen=True)
class Best:
    """The noise of the highest reward alone."""

    def __call__(self, rewards: Tensor) -> Tensor:
        """The weights, [n, N]."""
        return torch.zeros_like(rewards).scatter(1, rewards.argmax(1, keepdim=True), 1.0)


@dataclass(frozen=True)
class Extremes:
    """The mean of the best against the mean of the worst; its weights sum to up - down.

        a = up / count for the best, -down / count for the worst

    Args:
        up, down: the two factors.
        count: how many of either; N is at least twice that.
    """

    up: float = 0.9
    down: float = 0.1
    count: int = 2

    def __call__(self, rewards: Tensor) -> Tensor:
        """The weights, [n, N]."""
        n, k = rewards.shape[1], self.count
        if n < 2 * k:
            raise ValueError(f"{n} noises do not hold {k} best and {k} worst; draw {2 * k}.")
        order = rewards.argsort(1, descending=True)
        weights = torch.zeros_like(rewards).scatter(1, order[:, :k], self.up / k)
        return weights.scatter(1, order[:, n - k :], -self.down / k)


_CHOICE = Extremes()


class RewardSDS(Distiller):
    """Score distillation with several noises, weighted by a reward.

        G = w sum_i a_i R(eps_i),   a = choose(reward(decode(x_0_hat(eps_i))))

    Network evaluations a row: `noises` times those of `inner`, 2 for SDS, one batched call a
    noise; and as many decodings and rewards. It waits for the device at every step.

    Chachy, Yariv and Benaim, 2025, https://arxiv.org/abs/2503.09601.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        reward: of images, [n, c, h, w] in [0, 1], to [n]; see `rewards`. A bare `ScoreModel`
            has no codec, and its x_0_hat are rewarded as they are.
        noises: N, at least 1.
        choose: from rewards to weights.
        inner: whose residual is weighted, such as a `VSD` or a `Bridge`; None for SDS. Its own
            weight and law of t do not count.

    Raises:
        ValueError: `noises` is below 1; a reward that is not a finite number an image, when
            called; or as `Distiller`.
    """

    card = Card(
        rows=8,
        networks="the reward's",
        paper="Chachy et al., 2025",
        link="https://arxiv.org/abs/2503.09601",
        scale=30.0,
        bad_at="cost; a reward that blurred posterior means confuse",
    )

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        reward: Reward,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        noises: int = 4,
        choose: Choice = _CHOICE,
        inner: Distiller | None = None,
    ) -> None:
        if noises < 1:
            raise ValueError(f"noises is {noises}, expected at least 1.")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.reward, self.noises, self.choose, self.inner = reward, noises, choose, inner
        codec = model.codec if isinstance(model, Prior) else None
        self.__dict__["codec"] = codec  # past nn.Module: its weights are no part of a loss

    codec: Codec | None

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The weighted residuals; the first noise is the one that was drawn."""
        found, rewards = [], []
        for k in range(self.noises):
            if k:
                eps = normal(self.rng, x_0.shape[1:], dtype=eps.dtype).to(x_0.device)
                x_t = level.perturb(x_0, eps)
            if self.inner is None:
                residual = self.guided(x_t, level).eps - eps
            else:
                self.inner.progress, self.inner.rng = self.progress, self.rng
                residual = self.inner.residual(x_0, x_t, level, eps)
            found.append(residual)
            rewards.append(self._worth(x_0 - level.ratio * residual))
        weights = self.choose(torch.stack(rewards, 1))
        shape = (*weights.shape, *(1,) * (x_0.ndim - 1))
        return (weights.reshape(shape) * torch.stack(found, 1)).sum(1)

    def fit(self, x_0: State, *, progress: float = 0.0, rng: Sequence | None = None) -> None:
        """What the inner loss fits."""
        if self.inner is not None:
            self.inner.fit(x_0, progress=progress, rng=rng)

    def state(self) -> dict[str, Tensor]:
        """What the inner loss keeps."""
        return {} if self.inner is None else self.inner.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hand the inner loss what it kept."""
        if self.inner is not None:
            self.inner.restore(state)

    def _worth(self, x_0_hat: Tensor) -> Tensor:
        image = x_0_hat if self.codec is None else self.codec.decode(x_0_hat).clamp(0, 1)
        worth = self.reward(image)
        if worth.shape != (len(image),) or not worth.isfinite().all():
            raise ValueError(
                f"The reward gave {worth.tolist()} for {len(image)} images; it must give each of "
                "them a finite number."
            )
        return worth.to(x_0_hat)
