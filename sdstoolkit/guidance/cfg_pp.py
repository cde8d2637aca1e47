"""CFG++: guidance for the clean image, none for the noise that is put back.

    x_s = alpha_s x_0_hat(guided by share) + sigma_s eps_hat(n)

is DDIM with ordinary guidance of a scale that follows from the step, share r_t / (r_t - r_s) with
r = sigma / alpha. So it needs the times that are going to be visited, and nothing else.
"""

from collections.abc import Sequence

from torch import Tensor

from sdstoolkit.condition import Condition
from sdstoolkit.guidance._base import Guided
from sdstoolkit.guidance._grid import Grid
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.score import ScoreModel

__all__ = ["CFGPlusPlus"]


class CFGPlusPlus(Guided):
    """CFG++, for a sampler of first order on a known grid.

        scale_t = share r_t / (r_t - r_s),   s the next time of the grid;   share after the last

    Network evaluations a row: 2, in one batched call.

    Chung et al., 2024, https://arxiv.org/abs/2406.08070.

    Args:
        model: the model to guide.
        null: the condition to guide away from.
        share: of the condition, in [0, 1]; 1 is about as strong as a scale of 12 in 50 steps.
        times: the grid of the sampler, such as `DDIM(...).times`, in (0, 1] and falling.

    Raises:
        ValueError: such a share, or times that do not fall; when called, a time off the grid.
    """

    def __init__(
        self,
        model: ScoreModel,
        null: Condition,
        *,
        share: float = 0.6,
        times: Sequence[float] | Tensor,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, expected a number in [0, 1].")
        self.grid = Grid(times)
        super().__init__(model, share=share, times=len(self.grid))
        self.null, self.share = null, share

    def scale(self, level: NoiseLevel) -> Tensor:
        """The scale of ordinary guidance that it comes to, a number a row.

        Raises:
            ValueError: a time that is not of the grid.
        """
        below = self.grid.below(self.schedule, level)
        # r_t / (r_t - r_s) without the ratio, which is infinite at alpha = 0
        cross = level.sigma * below.alpha
        return self.share * cross / (cross - level.alpha * below.sigma)

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        """The guided output of the network."""
        told, untold = self.pair(x_t, level, condition, self.null)
        return untold + self.scale(level) * (told - untold)
