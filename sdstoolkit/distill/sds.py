"""Score distillation sampling.

At a random noise level, with x_t = alpha x_0 + sigma eps and r = sigma / alpha, the gradient is

    G = w (eps_hat(x_t) - eps) = (w / r) (x_0 - x_0_hat),

the network's Jacobian left out: x_0 is pulled to its denoised version. With an exact score,

    E[G] = grad E_t  w r KL(q(x_t | x_0) || p_t),

which says what is found: where the noised densities p_t are high on average. That is no sample of
the data, and while large times are drawn not even a mode of it. For a rectified flow it is the
same number, eps_hat - eps = (1 - t) (v_hat - (eps - x_0)).
"""

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller
from sdstoolkit.distill.card import Card
from sdstoolkit.noise import NoiseLevel

__all__ = ["SDS"]


class SDS(Distiller):
    """Score distillation sampling, with classifier-free guidance.

        G = w (eps_hat - eps),   eps_hat = scale eps_hat(c) + (1 - scale) eps_hat(n)

    From a paper's settings to these: a code that writes eps_hat(c) + s (eps_hat(c) - eps_hat(n))
    has scale = s + 1, so DreamFusion's s = 100 is `scale=101`; a code that takes the mean over the
    batch or over elements divides by their number what is summed here, which Adam does not notice
    and a learning rate of SGD must.

    Network evaluations a row: 2, in one batched call; 1 at `scale=1` and at `scale=0`. No graph
    goes through the network. Arguments, errors and what is returned are `Distiller`'s.

    Poole, Jain, Barron and Mildenhall, 2022, https://arxiv.org/abs/2209.14988.
    """

    card = Card(
        rows=2,
        paper="Poole et al., 2022",
        link="https://arxiv.org/abs/2209.14988",
        scale=7.5,
        law="sqrt",
        lr=0.1,
        bad_at="variety and texture: it seeks a mode of blurred densities, and over-saturates",
    )

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """The error of the predicted noise, eps_hat - eps."""
        return self.guided(x_t, level).eps - eps
