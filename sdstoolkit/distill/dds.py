"""Delta denoising score: SDS of the edit, less the SDS of what needs no edit.

    G = w (eps_hat(x_t, c) - eps_hat(y_t, c'))

For a source that already fits its prompt the second term is nothing but the error of SDS, which
the first has too. An edit to the same prompt has no gradient at all, and on Gaussians of equal
spread G has no variance and rests at y_0 + m_c - m_c'.
"""

from sdstoolkit._typing import State
from sdstoolkit.distill._editing import Editing
from sdstoolkit.distill.card import Card
from sdstoolkit.noise import NoiseLevel

__all__ = ["DDS"]


class DDS(Editing):
    """Delta denoising score, for edits.

        G = w (eps_hat(x_t, c) - eps_hat(y_t, c')),   one t and one eps for both,   w = 1

    Network evaluations a row: 4, in one batched call; 2 at `scale=1`. Arguments and errors are
    `Editing`'s.

    Hertz, Aberman and Cohen-Or, 2023, https://arxiv.org/abs/2304.07090.
    """

    card = Card(
        rows=4,
        paper="Hertz et al., 2023",
        link="https://arxiv.org/abs/2304.07090",
        scale=7.5,
        bad_at="edits of shape and place; nothing holds the structure for long runs",
    )

    def difference(self, x_t: State, y_t: State, level: NoiseLevel, eps: State) -> State:
        """The difference of the two guided predictions."""
        return self.delta(x_t, y_t, level)
