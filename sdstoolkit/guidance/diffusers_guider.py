"""The guiders of diffusers, as they are.

    output = guider(output(c), output(n))

Those that mix the outputs of one network under a condition and under none work; those that reach
into the network's layers do not, and are refused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided
from sdstoolkit.guidance._grid import Grid
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["DiffusersGuider"]


class DiffusersGuider(Guided):
    """An object of `diffusers.guiders`, wrapped.

        output = guider(pred_cond=output(c), pred_uncond=output(n)).pred

    Its scale, its interval in steps and its state are its own: which step of how many a call is,
    it learns from the place of t in `times`, counted down to the next time of the grid.

    Network evaluations a row: 2, in one batched call; 1 where the guider wants one.

    Args:
        model: the model to guide.
        null: the condition to guide away from.
        guider: the object.
        times: the grid of the sampler, falling, such as `DDIM(...).times`.

    Raises:
        ValueError: a guider that asks for more than two predictions, or times that do not fall.
    """

    TWO = ("pred_cond", "pred_uncond")

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        guider: Any,
        *,
        times: Sequence[float] | Tensor,
    ) -> None:
        name = type(guider).__name__
        inputs = tuple(getattr(guider, "_input_predictions", ()) or ())
        if inputs != self.TWO or hasattr(guider, "auto_guidance_config"):
            raise ValueError(
                f"{name} reaches into the network's layers, and only outputs are at hand here; "
                "take Perturbed or Autoguidance."
            )
        self.grid = Grid(times)
        super().__init__(model, guider=name, config=dict(guider.config))
        self.null, self.guider = null, guider

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """What the guider makes of the outputs."""
        step = int(self.grid.place(level)[0])
        k = torch.tensor([round(1000 * float(level.t[0]))])
        self.guider.set_state(step=step, num_inference_steps=len(self.grid), timestep=k)
        self.guider.prepare_inputs({})  # where some begin their momentum
        if self.guider.num_conditions == 1:
            (told,) = self.model.outputs(x_t, level, (condition,))
            return self.guider.forward(pred_cond=told, pred_uncond=None).pred
        told, untold = self.pair(x_t, level, condition, self.null)
        return self.guider.forward(pred_cond=told, pred_uncond=untold).pred
