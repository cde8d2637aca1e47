r"""`shapes-pixel`: an unconditional diffusion model of pixels, from its network to its folder.

Noise that is Gaussian in pixels is Gaussian for no latent model, so that denoising, restoration
and likelihoods in bits need a model of pixels. This one draws the world of :mod:`toy.data` at half
its size, 32 x 32, and learns

.. math:: \operatorname{mean} |v_\theta(\alpha x_0 + \sigma \epsilon, t)
          - (\alpha \epsilon - \sigma x_0)|^2,
          \qquad \log(\sigma / \alpha) \sim N(0, 1.6^2),

so that most of the training is spent where a drawing is decided: below :math:`\sigma / \alpha` =
0.04 nothing is left to decide, and above 25 not even the background can be seen.

References:
    Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020,
    https://arxiv.org/abs/2006.11239
    Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based Generative
    Models, 2022, https://arxiv.org/abs/2206.00364 (levels from a log-normal law)
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdstoolkit.noise import Discrete
from sdstoolkit.prediction import V
from sdstoolkit.toy.drawings import Drawings
from sdstoolkit.toy.drawings import drawings as make_drawings
from sdstoolkit.toy.training import ALONE, History, Plan, Share

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel

SIZE = 32


def unet() -> "UNet2DModel":
    """An untrained UNet2DModel of 1.24 M parameters, with attention at 8 x 8 alone."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        block_out_channels=(32, 48, 80),
        layers_per_block=1,
        attention_head_dim=20,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
    )


def scheduler() -> "DDPMScheduler":
    """The betas of the DDPM paper, 0.0001 to 0.02: sigma / alpha runs from 0.01 to 157."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction")


def halved(drawn: Drawings, rows: Tensor | slice) -> Tensor:
    """Drawings reduced to 32 x 32 by the mean of 2 x 2 pixels, float32 in [0, 1]."""
    return F.avg_pool2d(drawn.pictures(rows), 2)


def train_denoiser(
    network: "UNet2DModel",
    drawn: Drawings,
    plan: Plan,
    *,
    batch: int = 32,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> History:
    """Train in place. One pass, forward and backward, a step; half of the drawings are mirrored.

    Args:
        network: From :func:`unet`.
        drawn: The data set.
        plan: How long and how fast.
        batch: Drawings a step.
        checkpoint: Where to resume from.
        share: This process's part of the work.
    """
    schedule, v = Discrete(scheduler().alphas_cumprod.double()), V()
    most, least = (-schedule.log_snr(torch.tensor([1.0, 0.0]).double()) / 2).tolist()

    def error(x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        level = schedule.level(t, x)
        x_t = level.perturb(x, eps)
        time = schedule.timestep(t).float()
        with share.products(), sdpa_kernel(SDPBackend.MATH):  # the fused backward is slow on CPUs
            output = network(x_t, time, return_dict=False)[0]
        return F.mse_loss(output.float(), v.target(x, eps, level))

    def times(n: int, rng: Generator) -> Tensor:
        share_of = (torch.arange(n) + torch.rand(n, generator=rng, dtype=torch.float64)) / n
        ratio = 1.6 * torch.special.ndtri(share_of)  # log(sigma / alpha)
        return schedule.time(-2 * ratio.clamp(least, most))

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(drawn.images), (batch,), generator=rng)
        mirrored = torch.rand(batch, 1, 1, 1, generator=rng) < 0.5
        eps = torch.randn(batch, 3, SIZE, SIZE, generator=rng)
        t = times(batch, rng)
        x = 2 * halved(drawn, share.of(rows)) - 1
        x = torch.where(share.of(mirrored), x.flip(3), x)
        return error(x, share.of(t), share.of(eps))

    @torch.no_grad()
    def watch(step: int) -> dict[str, float]:
        rng = torch.Generator().manual_seed(1)
        x = 2 * halved(drawn, slice(0, 128)) - 1
        return {"fixed": float(error(x, times(128, rng), torch.randn(x.shape, generator=rng)))}

    return share.fit(
        network, loss, plan, checkpoint=checkpoint, name="shapes-pixel", watch=watch
    )


def train_shapes_pixel(
    run: Path,
    out: Path,
    *,
    drawings: int = 16_384,
    steps: int = 2_500,
    seed: int = 0,
    share: Share = ALONE,
) -> dict[str, History]:
    """Train `shapes-pixel` and pack it into a model folder.

    Args:
        run: Where the data set and the checkpoint are kept; a stopped run goes on from there.
        out: The model folder to write.
        drawings: Undamaged pictures in the data set.
        steps: Steps of 32 drawings.
        seed: Names the run.
        share: This process's part of the work, if there are several; the first one writes.

    Returns:
        The history of its one stage by name.
    """
    file = run / "drawings.safetensors"
    drawn = make_drawings(drawings, seed=seed, degraded=0.0, file=file)
    torch.manual_seed(seed)
    network = unet()
    plan = Plan(steps=steps, lr=2e-3, warmup=100, seed=seed + 1, muon=True)
    file = run / "denoiser.safetensors"
    history = train_denoiser(network, drawn, plan, checkpoint=file, share=share)
    if share.rank == 0:
        pack(out, network)
    return {"denoiser": history}


def pack(out: Path, network: "UNet2DModel") -> None:
    """Write the model folder that DDPMPipeline.from_pretrained opens."""
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline(network.to(memory_format=torch.contiguous_format), scheduler())
    pipeline.save_pretrained(out, safe_serialization=True)
