"""Adam without what torch.optim.Adam puts around it.

The update is torch's own functional form. The class of torch surrounds it by marks for a profiler,
by hooks and by checks for captured graphs, which for one small image take longer than the update.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["Adam"]


class Adam:
    """Adam; a parameter that has no gradient in a step is left alone in it.

        m <- b_1 m + (1 - b_1) g,   v <- b_2 v + (1 - b_2) g^2
        theta <- theta - lr (m / (1 - b_1^k)) / (sqrt(v / (1 - b_2^k)) + eps)

    Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980.

    Attributes:
        param_groups: one, whose "lr" is read in every step.

    Args:
        parameters: what is updated in place.
        lr: learning rate.
        betas: b_1 and b_2.
        eps: added to the root.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": lr}]
        self.betas, self.eps = betas, eps
        self._state = {
            k: {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(p, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(p, requires_grad=False),
            }
            for k, p in enumerate(parameters)
        }

    @torch.no_grad()
    def step(self) -> None:
        """One update by the gradients that the parameters have now."""
        (group,) = self.param_groups
        moved = [(p, self._state[k]) for k, p in enumerate(group["params"]) if p.grad is not None]
        adam(
            [p for p, _ in moved],
            [p.grad for p, _ in moved],
            [state["exp_avg"] for _, state in moved],
            [state["exp_avg_sq"] for _, state in moved],
            [],
            [state["step"] for _, state in moved],
            foreach=len(moved) > 1,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Of each parameter, by its number, the moments and how many steps made them."""
        return {"state": self._state}

    def load_state_dict(self, saved: Mapping[str, Mapping[int, Mapping[str, Tensor]]]) -> None:
        """Go on from what `state_dict` gave."""
        for k, entries in self._state.items():
            for name, held in entries.items():
                held.copy_(saved["state"][k][name])
