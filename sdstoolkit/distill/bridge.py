"""SDS as a bridge between what the images are and what they should be.

    G = w scale (eps_hat(c+) - eps_hat(c-))

points along a straight path from the law of images that are called c- to that called c+. SDS takes
the noise itself for the first, which is wrong for anything but noise; here a description of the
usual faults stands for it, after a first stage of SDS.
"""

from collections.abc import Sequence

from sdstoolkit._typing import State
from sdstoolkit.distill.base import Distiller, Prompt, TimeDraw, condition_of
from sdstoolkit.distill.card import Card
from sdstoolkit.distill.limits import Limit
from sdstoolkit.distill.weights import SigmaSquared, Weight
from sdstoolkit.grids import UniformLaw
from sdstoolkit.noise import NoiseLevel
from sdstoolkit.prior import Prior
from sdstoolkit.score import ScoreModel, each

__all__ = ["Bridge"]

_WEIGHT, _LAW = SigmaSquared(), UniformLaw()


class Bridge(Distiller):
    """SDS-Bridge: SDS at first, then from a description of its faults to one without.

        G = w (eps_hat - eps)                        while progress < switch
        G = w gain (eps_hat(c+) - eps_hat(c-))       from there on

    Network evaluations a row: 2 in either stage, in one batched call.

    McAllister et al., 2024, https://arxiv.org/abs/2406.09417; they say ", detailed high
    resolution, high quality, sharp" and ", oversaturated, smooth, pixelated, cartoon, foggy, hazy,
    blurry, bad structure, noisy, malformed".

    Args:
        model, negative, scale, weight, t_law, limits: as `Distiller`; negative and scale are the
            first stage's.
        prompt: what is wanted; needed.
        target: c+; a text that begins with a comma is added to the prompt.
        source: c-, likewise.
        gain: of the second stage; None for the scale.
        switch: the progress from which on the second stage holds, in [0, 1]; the paper's is 0.5.

    Raises:
        ValueError: there is no prompt, a text to add to a prompt that is none, `switch` is not in
            [0, 1], or as `Distiller`.
    """

    card = Card(
        rows=2,
        paper="McAllister et al., 2024",
        link="https://arxiv.org/abs/2406.09417",
        scale=7.5,
        law="sqrt",
        lr=0.1,
        bad_at="a model that does not know the words for the faults of SDS",
    )

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
        target: Prompt = ", sharp, high quality",
        source: Prompt = ", oversaturated, blurry, noisy, low quality",
        gain: float | None = None,
        switch: float = 0.75,
    ) -> None:
        if prompt is None:
            raise ValueError("The bridge leads to a prompt, but there is none; give one.")
        if not 0 <= switch <= 1:
            raise ValueError(f"switch is {switch}, expected a progress in [0, 1].")
        super().__init__(
            model,
            prompt,
            negative=negative,
            scale=scale,
            weight=weight,
            t_law=t_law,
            limits=limits,
        )
        self.target = condition_of(model, _described(prompt, target))
        self.source = condition_of(model, _described(prompt, source))
        self.gain = self.scale if gain is None else float(gain)
        self.switch = switch

    def residual(self, x_0: State, x_t: State, level: NoiseLevel, eps: State) -> State:
        """eps_hat - eps at first, then the difference of the two descriptions."""
        if self.progress < self.switch:
            return self.guided(x_t, level).eps - eps
        wanted, there = each(self.model, x_t, level, (self.target, self.source))
        return self.gain * (wanted.eps - there.eps)


def _described(prompt: Prompt, words: Prompt) -> Prompt:
    """The prompt with more words, if that is what they are for."""
    if not (isinstance(words, str) and words.startswith(",")):
        return words
    if isinstance(prompt, str):
        return prompt + words
    if isinstance(prompt, Sequence):
        return [each_ + words for each_ in prompt]
    raise ValueError(f"{words!r} is added to a text, but the prompt is none; give a Condition.")
