r"""The two ways in which weights move here.

AdamW for everything, or Muon for what is a matrix: the momentum :math:`M` of a weight matrix (a
convolution is one with a row an output channel) is replaced by the orthogonal matrix next to it,

.. math:: W \leftarrow (1 - \eta\lambda)\,W
          - 0.2\,\eta \sqrt{\max(m, n)}\; U V^\top, \qquad M = U \Sigma V^\top,

so that a step moves all directions alike and is as large as one of AdamW. Embeddings, biases and
gains stay with AdamW. The denoiser of `shapes` comes as far in 220 steps of it as in 475 of AdamW.

References:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017,
    https://arxiv.org/abs/1711.05101
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
    https://kellerjordan.github.io/posts/muon/
    Liu et al., Muon is Scalable for LLM Training, 2025, https://arxiv.org/abs/2502.16982
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Optimizer:
    """Moves the weights of a network that require a gradient; its state is named tensors.

    Args:
        network: What is fitted.
        lr: The learning rate at first.
        weight_decay: Of matrices and convolutions only.
        muon: Whether they move by Muon; their storage must be contiguous.
    """

    def __init__(
        self, network: nn.Module, *, lr: float, weight_decay: float, muon: bool = False
    ) -> None:
        self.params = {k: p for k, p in network.named_parameters() if p.requires_grad}
        tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
        wide = {k: p for k, p in self.params.items() if p.ndim > 1}
        # Two views of one storage: the network's weight and, for Muon, its matrix.
        self.matrices = {
            k: nn.Parameter(p.detach().view(len(p), -1))
            for k, p in wide.items()
            if muon and id(p) not in tables
        }
        self._moved = {k: self.matrices.get(k, p) for k, p in self.params.items()}
        adam = [
            {
                "params": [p for k, p in wide.items() if k not in self.matrices],
                "weight_decay": weight_decay,
            },
            {"params": [p for k, p in self.params.items() if k not in wide], "weight_decay": 0.0},
        ]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(adam, lr=lr, betas=(0.9, 0.99), foreach=True)
        ]
        if self.matrices:
            self._parts.append(
                torch.optim.Muon(
                    list(self.matrices.values()),
                    lr=lr,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, lr: float) -> None:
        """Move the weights against their gradients, which are then forgotten."""
        for key, matrix in self.matrices.items():
            grad = self.params[key].grad
            matrix.grad = None if grad is None else grad.reshape(matrix.shape)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        for p in self.params.values():
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by kind and parameter."""
        return {
            f"{kind}.{key}": value
            for key, p in self._moved.items()
            for part in self._parts
            for kind, value in part.state.get(p, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for key, p in self._moved.items():
            muon = key in self.matrices
            kinds = ("momentum_buffer",) if muon else ("step", "exp_avg", "exp_avg_sq")
            if all(f"{kind}.{key}" in state for kind in kinds):  # else it never had a gradient
                self._parts[muon].state[p] = {kind: state[f"{kind}.{key}"] for kind in kinds}
