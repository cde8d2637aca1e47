r"""How `shapes` learns to draw: its autoencoder and its denoiser.

The autoencoder sees pictures :math:`x` with a little white noise :math:`n` that it must not keep,

.. math:: \operatorname{mean} |D(z) - x|^2 + \tfrac{1}{10} \operatorname{mean} |D(z) - x|
          + \lambda \operatorname{mean} KL(q(z | x + n) \,\|\, N(0, I)),

whose absolute error keeps edges sharp, and the denoiser learns, with one caption in ten empty,

.. math:: \operatorname{mean} |v_\theta(\alpha x_0 + \sigma \epsilon, t, c)
          - (\alpha \epsilon - \sigma x_0)|^2.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021,
    https://arxiv.org/abs/2112.10752
    Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022,
    https://arxiv.org/abs/2202.00512
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdstoolkit.noise import Discrete
from sdstoolkit.prediction import V
from sdstoolkit.toy import data, networks
from sdstoolkit.toy.drawings import Drawings
from sdstoolkit.toy.reading import CAPTIONS_A_DRAWING
from sdstoolkit.toy.training import ALONE, History, Plan, Share

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel


def train_autoencoder(
    model: "AutoencoderKL",
    drawn: Drawings,
    plan: Plan,
    *,
    batch: int = 16,
    kl: float = 2e-5,
    noise: float = 0.05,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> History:
    """Train both halves. One encoder and one decoder pass, forward and backward, a step.

    Args:
        model: Trained in place.
        drawn: The data set.
        plan: How long and how fast.
        batch: Pictures a step.
        kl: Weight of the divergence, lambda above.
        noise: Largest standard deviation of the white noise on the encoder's input, [0, 1] units.
        checkpoint: Where to resume from.
        share: This process's part of the work.
    """

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(drawn.images), (batch,), generator=rng)
        x = 2 * drawn.pictures(share.of(rows)) - 1
        level = 2 * noise * share.of(torch.rand(batch, 1, 1, 1, generator=rng))
        white = share.of(torch.randn(batch, *x.shape[1:], generator=rng))
        with share.products():
            posterior = model.encode(x + level * white).latent_dist
            draw = share.of(torch.randn(batch, *posterior.mean.shape[1:], generator=rng))
            x_hat = model.decode(posterior.mean + posterior.std * draw).sample.float()
        error = F.mse_loss(x_hat, x) + 0.1 * F.l1_loss(x_hat, x)
        return error + kl * posterior.kl().mean() / posterior.mean[0].numel()

    return share.fit(model, loss, plan, checkpoint=checkpoint, name="autoencoder")


@torch.no_grad()
def encode_once(model: "AutoencoderKL", drawn: Drawings) -> Tensor:
    """The latent means of every drawing, scaled to unit variance; sets the model's scaling_factor.

    Cost: one encoder pass a drawing. Returns float32 [n, 16, 8, 8].
    """
    from tqdm import tqdm

    chunks = tqdm(torch.arange(len(drawn.images)).split(32), "latents")
    means = [model.encode(2 * drawn.pictures(rows) - 1).latent_dist.mean for rows in chunks]
    latents = torch.cat([m.contiguous() for m in means])
    scale = 1 / float(latents.std())
    model.register_to_config(scaling_factor=scale)
    return latents * scale


def crowded(u: Tensor) -> Tensor:
    """Times for even numbers in [0, 1): eight of ten where shapes are decided, 0.1 < t < 0.65.

    There sigma/alpha runs from 0.4 to 4.6. Below, little is left to decide; above, only colours.
    """
    low, high = u, 0.65 + (u - 0.9) / 0.1 * 0.35
    return torch.where(u < 0.1, low, torch.where(u < 0.9, 0.1 + (u - 0.1) / 0.8 * 0.55, high))


def lessons(scenes: data.Scenes) -> list[Tensor]:
    """The rows of a data set by how much there is to learn at once, easiest first.

    One large object, undamaged; one small one; two objects; a damaged picture of one.
    """
    alone, clean = scenes.count == 1, scenes.quality == data.CLEAN
    large = scenes.size[:, 0] == data.SIZES.index("large")
    kinds = (alone & clean & large, alone & clean & ~large, ~alone, alone & ~clean)
    return [rows.nonzero()[:, 0] for rows in kinds]


def timetable(progress: float) -> Tensor:
    """The share of each of the :func:`lessons` in a batch; progress runs from 0 to 1.

    With every scene mixed in from the start, captions taught colours alone for two thousand steps
    and outlines stayed blobs; large single objects teach outlines in a few hundred.
    """
    small, rest = (min(max((progress - a) / b, 0), 1) for a, b in ((0.07, 0.09), (0.15, 0.12)))
    shares = torch.tensor([1.0, small, 4 * rest, 0.75 * rest])
    return shares / shares.sum()


def train_denoiser(
    unet: "UNet2DConditionModel",
    text_encoder: nn.Module,
    scenes: data.Scenes,
    latents: Tensor,
    ids: Tensor,
    empty: Tensor,
    plan: Plan,
    *,
    batch: int = 64,
    dropout: float = 0.1,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> History:
    """Train the denoiser. A pass of it, forward and backward, and one of the text encoder a step.

    The text encoder and the denoiser's pool stay as they have learnt to read: trained along, the
    lessons on single objects made them forget which of two objects lies where.

    Args:
        unet: Trained in place, but for its pool.
        text_encoder: As :mod:`sdstoolkit.toy.reading` left it.
        scenes: What the data set shows.
        latents: From :func:`encode_once`, [n, 16, 8, 8].
        ids: From :func:`captions`, [n, 4, 32].
        empty: Token ids of "", [32].
        plan: How long and how fast.
        batch: Latents a step.
        dropout: Portion of captions replaced by the empty one.
        checkpoint: Where to resume from.
        share: This process's part of the work.

    The progress bar watches the loss on fixed draws, with captions and without: the gap between
    the two is what prompts are worth to the model.
    """
    text_encoder.requires_grad_(False)
    unet.add_embedding.requires_grad_(False)
    schedule = Discrete(networks.scheduler().alphas_cumprod.double())
    v, by_lesson = V(), lessons(scenes)

    def error(rows: Tensor, tokens: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        x_0 = latents[rows]
        level = schedule.level(t, x_0)
        x_t = level.perturb(x_0, eps)
        time = schedule.timestep(t).float()
        # The fused attention's backward pass is slow on CPUs.
        with share.products(), sdpa_kernel(SDPBackend.MATH):
            states = text_encoder(tokens).last_hidden_state
            output = unet(x_t, time, encoder_hidden_states=states).sample
        return F.mse_loss(output.float(), v.target(x_0, eps, level))

    def even(n: int, rng: Generator) -> Tensor:
        return (torch.arange(n) + torch.rand(n, generator=rng, dtype=torch.float64)) / n

    def loss(step: int, rng: Generator) -> Tensor:
        lesson = torch.multinomial(timetable(step / plan.steps), batch, True, generator=rng)
        place = torch.rand(batch, generator=rng)
        rows = torch.stack([
            by_lesson[k][int(u * len(by_lesson[k]))]
            for k, u in zip(lesson.tolist(), place.tolist(), strict=True)
        ])
        which = torch.randint(CAPTIONS_A_DRAWING, (batch,), generator=rng)
        dropped = torch.rand(batch, 1, generator=rng) < dropout
        tokens = torch.where(dropped, empty, ids[rows, which])
        eps = torch.randn(batch, *latents.shape[1:], generator=rng)
        t = crowded(even(batch, rng))
        return error(share.of(rows), share.of(tokens), share.of(t), share.of(eps))

    @torch.no_grad()
    def watch(step: int) -> dict[str, float]:
        rng = torch.Generator().manual_seed(1)
        rows, t = torch.arange(256), even(256, rng)
        eps = torch.randn(latents[rows].shape, generator=rng)
        told, untold = ids[rows, 0], empty.expand(256, -1)
        return {
            "told": float(error(rows, told, t, eps)),
            "untold": float(error(rows, untold, t, eps)),
        }

    return share.fit(unet, loss, plan, checkpoint=checkpoint, name="denoiser", watch=watch)
