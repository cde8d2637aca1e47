r"""Handwritten digits of 8 x 8 pixels: a real image set that needs no download.

scikit-learn brings 1797 of them (Alpaydin and Kaynak, 1998, https://doi.org/10.24432/C50P49). An
NCSN learns their score at all noise levels (Song and Ermon, 2019,
https://arxiv.org/abs/1907.05600), and an independent classifier p(k | x) judges what it draws:

.. math:: \text{accepted} = P\bigl(\max_k p(k \mid x) > 0.9\bigr), \qquad
          \mathrm{IS} = \exp E_x\, KL\bigl(p(k \mid x) \,\|\, E_x p(k \mid x)\bigr),

the second between 1 and 10, as the Inception score is (Salimans et al., 2016,
https://arxiv.org/abs/1606.03498).

What is trained is the weight of a level. The sigma^2 |s_theta - s|^2 of the paper is the error of
x_0 over sigma^2, which leaves next to nothing for the levels of 0.5 to 3 that decide which digit
it is; the error of the network's output, which has the same size at all levels (Karras et al.,
2022, https://arxiv.org/abs/2206.00364), is (1 / d^2 + 1 / sigma^2) |x_0_hat - x_0|^2.
"""

import importlib
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from sdstoolkit.noise import VE
from sdstoolkit.prediction import Karras
from sdstoolkit.toy.mlp import train
from sdstoolkit.toy.objectives import Continuous
from sdstoolkit.toy.training import History, Track, fast_products
from sdstoolkit.toy.unet import UNetScore

__all__ = ["Digits", "Reader", "digits", "inception_score", "ncsn", "train_digits"]

SCHEDULE = VE(sigma_min=0.02, sigma_max=12.0)  # 12: two digits are no farther apart
HELD_OUT = 500
STEPS = 3_000


class Digits(NamedTuple):
    """Images in [0, 1], float32 [n, 1, 8, 8], and what they show, int64 [n]."""

    images: Tensor
    labels: Tensor


def digits() -> tuple[Digits, Digits]:
    """1297 digits to learn from and 500 held out, by a fixed permutation.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    datasets = _sklearn("datasets")
    found = datasets.load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(found.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order[:-HELD_OUT], order[-HELD_OUT:]
    learnt, kept = (Digits(images[rows], labels[rows]) for rows in parts)
    return learnt, kept


class Reader:
    """An independent classifier of digits: scikit-learn's multilayer perceptron on raw pixels.

        p(k | x),   fitted on images and labels alone

    It shares neither weights nor kind with the networks here.

    Args:
        learnt: what it is fitted on; a few seconds.
    """

    def __init__(self, learnt: Digits) -> None:
        network = _sklearn("neural_network").MLPClassifier
        self._model = network((128,), alpha=0.01, max_iter=400, random_state=7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it could be fitted for longer
            self._model.fit(learnt.images.flatten(1).numpy(), learnt.labels.numpy())

    def __call__(self, images: Tensor) -> Tensor:
        """The probabilities of the ten digits, float64 [n, 10], for images [n, 1, 8, 8]."""
        seen = images.detach().cpu().clamp(0, 1).flatten(1).double().numpy()
        return torch.from_numpy(self._model.predict_proba(seen)).double()


def inception_score(p: Tensor) -> float:
    """exp of the mean divergence of p(k | x) from their mean, between 1 and the number of classes.

    Args:
        p: Probabilities, [n, classes].
    """
    divergence = (p * (p.clamp(min=1e-12).log() - p.mean(0).clamp(min=1e-12).log())).sum(1)
    return float(divergence.mean().exp())


def ncsn(seed: int = 0) -> UNetScore:
    """The untrained network, of 0.4 M parameters; x_0 = 2 image - 1 has a deviation of 0.75."""
    return UNetScore(
        (1, 8, 8),
        SCHEDULE,
        Karras(sigma_data=0.75),
        widths=(32, 64),
        seed=seed,
    )


def train_digits(
    learnt: Digits,
    *,
    steps: int = STEPS,
    seed: int = 0,
    checkpoint: Path | None = None,
    track: Track | None = None,
) -> tuple[UNetScore, History]:
    """Train an NCSN on digits, at levels spread evenly in log(sigma).

    One pass of 128 digits, forward and backward, a step; 3000 of them are four minutes of one core
    that multiplies in bfloat16, and five of one that does not.

    Args:
        learnt: the digits, of `digits`.
        steps: how many, at least 1.
        seed: names the run.
        checkpoint: where to resume from.
        track: told the loss and the learning rate as they come.
    """
    objective = Continuous()

    def fast(model: UNetScore, x_0: Tensor, rng: Generator) -> Tensor:
        with fast_products():
            return objective(model, x_0, rng)

    return train(
        ncsn(seed),
        2 * learnt.images - 1,
        fast,
        steps=steps,
        batch=128,
        lr=2e-3,
        weight_decay=1e-2,
        ema=0.995,
        muon=True,
        seed=seed,
        checkpoint=checkpoint,
        track=track,
    )


def _sklearn(name: str) -> Any:
    """A module of scikit-learn."""
    try:
        return importlib.import_module(f"sklearn.{name}")
    except ImportError:
        raise ValueError(
            "The digits come with scikit-learn, which is not installed: pip install scikit-learn."
        ) from None
