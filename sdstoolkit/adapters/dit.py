"""DiT: a diffusion transformer of labelled images.

    (out, variance) = DiT(x_t, k, label),   out = eps

The label that follows the last is the null one. The network learns a variance beside eps, which is
split off.

Reference:
    Peebles and Xie, Scalable Diffusion Models with Transformers, 2022,
    https://arxiv.org/abs/2212.09748
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, Trained, latent_shape
from sdstoolkit.codec import Codec, KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("DiTPipeline",)
TAKES = "a label"
EXAMPLES = ("facebook/DiT-XL-2-256",)


class DiTScore(NetworkScore):
    """A DiTTransformer2DModel, without the variance that it learns.

        out = DiT(x_t, k, label)[:, :c]

    The condition has "label", int [n]. One network evaluation a row.
    """

    takes = ("label",)

    def __init__(self, network: nn.Module, trained: Trained, shape: Sequence[int]) -> None:
        super().__init__(network, trained, shape)
        self.patch = int(self.network.config.patch_size)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """DiT(x_t, k, label)[:, :c]."""
        out = self.network(x, timestep=noise, class_labels=condition["label"], return_dict=False)
        return out[0][:, : self.shape[0]]


class LabelPrior(Prior):
    """A prior over labelled images.

    Args:
        score, codec: as `Prior`.
        labels: how many there are; this number itself is the null label.
    """

    takes, accepts = TAKES, ("label",)

    def __init__(self, score: DiTScore, codec: Codec, *, labels: int) -> None:
        super().__init__(score, codec)
        self.labels = labels

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Condition:
        """The condition "label", int [n]; the null label if none is given.

        Raises:
            ValueError: something else than a label, or a label that does not exist.
        """
        given = {"prompt": prompt, "image": image, "mask": mask, "hint": hint}
        self.refuse({k: v for k, v in given.items() if v is not None})
        labels = [self.labels] if label is None else label
        labels = [labels] if isinstance(labels, int) else list(labels)
        if not labels or any(not 0 <= one <= self.labels for one in labels):
            raise ValueError(
                f"label is {label!r}, expected whole numbers from 0 to {self.labels - 1}, or"
                f" {self.labels} for none."
            )
        return Condition({"label": torch.tensor(labels, device=self.device)})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a DiTPipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel

    trained = checkpoint.scheduler()
    network = checkpoint.network("transformer", DiTTransformer2DModel)
    autoencoder = checkpoint.network("vae", AutoencoderKL, AutoencoderTiny)
    checkpoint.fit(
        ("transformer's in_channels", network.config.in_channels,
         "vae's latent_channels", autoencoder.config.latent_channels),
    )  # fmt: skip
    with checkpoint.explained():
        score = DiTScore(network, trained, latent_shape(network, autoencoder))
    codec = KLCodec(autoencoder, patch=score.patch)
    return LabelPrior(score, codec, labels=int(network.config.num_embeds_ada_norm))
