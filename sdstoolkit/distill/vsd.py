"""Variational score distillation: images are particles of a law that shall match the prior's.

    G = w (eps_hat(x_t) - eps_phi(x_t)),
    phi = argmin E ||eps_phi(alpha x_0 + sigma eps) - eps||^2

over the particles. With exact networks the mean of G is the gradient of w r KL(q_t || p_t) for
the particles' law q, so that it vanishes, for every noise drawn, where q = p: the whole law is the
fixed point, not its mode. One particle and an exact phi, which then knows eps, is SDS.

As it vanishes for every noise, a row may keep its own: the fixed point is the same, and on the way
there a particle follows one path of the flow instead of the mean of all. With new noise in every
step the particles of a prompt meet in the middle of the picture.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from sdstoolkit._typing import State
from sdstoolkit.distill._adapter import low_rank
from sdstoolkit.distill._memory import Held
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import TwoStage
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.rng import generators, normal, uniform
from sdstoolkit.score import ScoreModel

__all__ = ["VSD"]

_WEIGHT, _LAW = SigmaSquared(), TwoStage(switch=0.2)


class VSD(Distiller):
    """Variational score distillation; the rows of a call are its particles.

        G = w (eps_hat(x_t) - eps_phi(x_t, c))

    phi is the prior's network with low-rank adapters on all of its layers, which `fit` trains on
    the particles after every step of `optimize`; the prior's own network stays as it is. At first,
    where phi is the prior, G = (scale - 1) w (eps_hat(c) - eps_hat(n)). A phi that lags, through
    too small a rank, rate or number of fits, leaves it there, where it over-saturates as CSD does.

    Network evaluations a row: 3, and 1 with its way back for each fit.

    Wang et al. (ProlificDreamer), 2023, https://arxiv.org/abs/2305.16213.

    Args:
        model, prompt, negative, scale, weight, t_law, limits: as `Distiller`.
        fake: phi, instead of adapters: any `ScoreModel`; its parameters that want a gradient are
            fitted.
        rank: of the adapters, at least 1.
        lr: of Adam for phi, above 0; the paper's 1e-4 is for runs of 25 000 steps. A step of phi
            grows with the rank too: with twice of both it runs away on the bundled model.
        fits: steps of phi after a step of the images, at least 0.
        hold: for how many steps a row keeps its noise at the beginning, at least 1; the paper's
            is new in every step, 1.
        until: the progress by which that number has fallen to 1 along a line, in [0, 1].
        seed: of the adapters and of what `fit` draws.

    Raises:
        ValueError: `rank` is below 1, the model has no linear layer, `lr`, `fits`, `hold` or
            `until` is out of range, or as `Distiller`.
    """

    card = Card(
        rows=3,
        passes=1,
        fitted=1,
        networks="low-rank adapters, fitted on the way",
        paper="Wang et al., 2023",
        link="https://arxiv.org/abs/2305.16213",
        scale=4.0,
        law="linear",
        weight="ratio",
        lr=0.05,
        optimizer="sgd",
        bad_at="few steps: it is CSD until its network has caught up; four times as long as SDS",
    )
    couples = True

    def __init__(
        self,
        model: Prior | ScoreModel,
        prompt: Prompt = None,
        *,
        negative: Prompt = None,
        scale: float = 1.0,
        weight: Weight = _WEIGHT,
        t_law: TimeDraw = _LAW,
        limits: Sequence[Limit] = (),
        fake: ScoreModel | None = None,
        rank: int = 16,
        lr: float = 5e-3,
        fits: int = 1,
        hold: int = 10_000,
        until: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        if not 0 < lr < float("inf") or fits < 0:
            raise ValueError(f"lr is {lr} and fits {fits}, expected lr above 0, fits from 0 on.")
        self.fake = low_rank(self.model, rank=rank, seed=seed) if fake is None else fake
        self.fits, self.seed, self.held = fits, seed, Held(hold, until)
        trained = [p for p in self.fake.parameters() if p.requires_grad]
        self._adam = torch.optim.Adam(trained, lr=lr) if trained else None
        self._draws: list[Generator] = []

    def noise(self, x_0: State, rng: Sequence[Generator]) -> State:
        """That of the last step while it is held, and else a new one."""
        return self.held(rng, x_0, self.progress, super().noise)

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The guided prediction minus that of the particles' network; eps takes no part in it."""
        return self.guided(x_t, level).eps - self.fake(x_t, level, self.condition).eps

    def state(self) -> dict[str, Tensor]:
        """The noise that is held; the particles' network as it is trained, its optimiser, and what
        `fit` draws from."""
        state = self.held.state()
        if self._adam is None:
            return state
        trained = self._adam.param_groups[0]["params"]
        state |= {f"parameter.{k}": p.detach() for k, p in enumerate(trained)}
        for k, entries in self._adam.state_dict()["state"].items():
            state |= {f"adam.{k}.{name}": value for name, value in entries.items()}
        if self._draws:
            state["draws"] = torch.stack([draw.get_state() for draw in self._draws])
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from it."""
        self.held.restore(state)
        if self._adam is None:
            return
        for k, p in enumerate(self._adam.param_groups[0]["params"]):
            p.copy_(state[f"parameter.{k}"])
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            if kind == "adam":
                at, _, entry = rest.partition(".")
                entries.setdefault(int(at), {})[entry] = value.clone()
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": entries, "param_groups": groups})
        drawn = state.get("draws", torch.empty(0))
        self._draws = generators(range(self.seed, self.seed + len(drawn)), "fit")
        for draw, kept in zip(self._draws, drawn, strict=True):
            draw.set_state(kept.clone())

    def fit(
        self, x_0: State, *, progress: float = 0.0, rng: Sequence[Generator] | None = None
    ) -> None:
        """Steps of Adam on ||out_phi(x_t, t, c) - target(x_0, eps)||^2, t by the loss's law.

        phi is trained where it is asked: under a law that falls, at the present time. It draws
        from generators of its own, so that the noise of the images is what it would be without.

        Args:
            x_0: the particles, without a graph, [n, *shape].
            progress: how much of the optimisation is over, which the law of t may use.
            rng: has no influence but by its number.
        """
        if self._adam is None:
            return
        if len(self._draws) < len(x_0):
            first = self.seed + len(self._draws)
            self._draws += generators(range(first, self.seed + len(x_0)), "fit")
        draws, fake = self._draws[: len(x_0)], self.fake
        for _ in range(self.fits):
            level = fake.schedule.level(self.t_law(uniform(draws), progress), x_0)
            eps = normal(draws, x_0.shape[1:], dtype=level.alpha.dtype).to(x_0.device)
            with torch.enable_grad():
                (output,) = fake.outputs(level.perturb(x_0, eps), level, [self.condition])
                error = output - fake.parameterization.target(x_0, eps, level)
                loss = error.square().flatten(1).mean(1).mean()
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()
