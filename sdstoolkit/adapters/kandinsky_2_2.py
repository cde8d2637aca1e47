"""Kandinsky 2.2, the decoder: a latent model that is told an image embedding.

    (out, variance) = UNet(x_t, k, embedding),   out = eps,   x_0 = code(image)

The embedding is CLIP's of an image, which KandinskyV22PriorPipeline makes of a prompt. The network
learns a variance beside eps, which is split off. The codes of MoVQ are neither scaled nor
quantised, on the way in as on the way out.

Reference:
    Razzhigaev et al., Kandinsky: an Improved Text-to-Image Synthesis with Image Prior and Latent
    Diffusion, 2023, https://arxiv.org/abs/2310.03502
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sdstoolkit.adapters._checkpoint import Checkpoint
from sdstoolkit.adapters._network import NetworkScore, latent_shape
from sdstoolkit.codec import KLCodec
from sdstoolkit.condition import Condition
from sdstoolkit.prior import Prior

PIPELINES = ("KandinskyV22Pipeline",)
TAKES = "an image embedding"
EXAMPLES = ("kandinsky-community/kandinsky-2-2-decoder",)


class KandinskyScore(NetworkScore):
    """A UNet2DConditionModel that is told an image embedding, without the variance it learns.

        out = UNet(x_t, k, embedding)[:, :c]

    The condition has "embedding" [n, width]. One network evaluation a row.
    """

    takes = ("embedding",)

    def call(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """UNet(x_t, k, embedding)[:, :c]."""
        out = self.network(
            x,
            noise,
            None,
            added_cond_kwargs={"image_embeds": condition["embedding"]},
            return_dict=False,
        )
        return out[0][:, : self.shape[0]]


class MoVQCodec(KLCodec):
    """x_0 = code(2 image - 1), neither scaled nor quantised.

    Args:
        autoencoder: a VQModel with spatial norms.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__(autoencoder)
        self._scale = self._scale * 0 + 1

    def _picture(self, code: Tensor) -> Tensor:
        return self.autoencoder.decode(code, force_not_quantize=True).sample


class KandinskyPrior(Prior):
    """A prior that is told an image embedding."""

    takes, accepts = TAKES, ("embedding",)

    def condition(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        label: int | Sequence[int] | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        hint: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Condition:
        """What the network is told, `embedding` [n, width] of an image.

        That of the null condition is KandinskyV22PriorPipeline's negative_image_embeds.

        Raises:
            ValueError: anything but an embedding of the network's width.
        """
        given = {"prompt": prompt, "label": label, "image": image, "mask": mask, "hint": hint}
        self.refuse({k: v for k, v in given.items() if v is not None})
        score: Any = self.score
        width = score.network.config.encoder_hid_dim
        if embedding is None or embedding.ndim != 2 or embedding.shape[1] != width:
            found = "none" if embedding is None else f"one of shape {list(embedding.shape)}"
            raise ValueError(
                f"The image embedding is {found}, expected [n, {width}]: give"
                " prior.condition(embedding=...)."
            )
        return Condition({"embedding": embedding.to(self.device)})


def open_checkpoint(checkpoint: Checkpoint) -> Prior:
    """The prior of a KandinskyV22Pipeline folder.

    Raises:
        ValueError: a component is missing or of another kind than this family's, or two of them do
            not fit together.
    """
    from diffusers import UNet2DConditionModel, VQModel

    trained = checkpoint.scheduler()
    checkpoint.expect(
        "unet", {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj"}
    )
    network = checkpoint.network("unet", UNet2DConditionModel)
    autoencoder = checkpoint.network("movq", VQModel)
    with checkpoint.explained():
        score = KandinskyScore(network, trained, latent_shape(network, autoencoder))
    return KandinskyPrior(score, MoVQCodec(autoencoder))
