"""Tiny random models, built from configs and saved as ordinary diffusers folders, offline.

A random network is a score of no data: such a folder proves conversions (who scales what, by which
table, at which time), never quality. Latents are 8x8 with 4 channels and the autoencoder's factor
is 2, so an image is 16x16.

    folder("sd_epsilon")                  # built once a test run, shared: do not write into it
    stable_diffusion(tmp_path / "mine")   # built where a test may break it
"""

import atexit
import functools
import tempfile
from pathlib import Path

import torch
from torch import nn

from sdstoolkit.adapters._checkpoint import quiet

MERGES = ("r e", "re d</w>", "h e", "a r", "he ar", "hear t</w>", "b l", "bl u", "blu e</w>")
STABLE_DIFFUSION = {  # kind -> prediction type, rescale_betas_zero_snr, timestep_spacing
    "sd_epsilon": ("epsilon", False, "leading"),
    "sd_v": ("v_prediction", False, "leading"),
    "sd_zsnr": ("v_prediction", True, "trailing"),
    "sd_sample": ("sample", False, "leading"),
}
DDPM = {"ddpm_epsilon": "epsilon", "ddpm_sample": "sample", "ddpm_v": "v_prediction"}
KINDS = (*STABLE_DIFFUSION, *DDPM)


@functools.cache
def folder(kind: str) -> Path:
    """The shared folder of one of `KINDS`; removed when the tests end."""
    path = _root() / kind
    if kind in DDPM:
        return ddpm(path, prediction_type=DDPM[kind])
    prediction_type, zero_snr, spacing = STABLE_DIFFUSION[kind]
    return stable_diffusion(
        path, prediction_type=prediction_type, zero_snr=zero_snr, timestep_spacing=spacing
    )


@functools.cache
def _root() -> Path:
    held = tempfile.TemporaryDirectory(prefix="tiny-models-")
    atexit.register(held.cleanup)
    return Path(held.name)


def clip_tokenizer(path: Path, *, length: int = 16) -> Path:
    """Writes a CLIP tokenizer: 256 bytes, 256 that end a word, merges, begin and end (highest)."""
    from transformers import CLIPTokenizer

    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *(m.replace(" ", "") for m in MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=[tuple(merge.split()) for merge in MERGES],
        model_max_length=length,
    )
    tokenizer.save_pretrained(path)
    return path


def stable_diffusion(
    path: Path,
    *,
    prediction_type: str = "epsilon",
    zero_snr: bool = False,
    timestep_spacing: str = "leading",
    seed: int = 0,
    variant: str | None = None,
    safetensors: bool = True,
) -> Path:
    """Saves a StableDiffusionPipeline with a DDIM scheduler, scaled-linear betas, no clipping."""
    with quiet():
        from diffusers import (
            AutoencoderKL,
            DDIMScheduler,
            StableDiffusionPipeline,
            UNet2DConditionModel,
        )
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip_tokenizer(Path(path) / "tokenizer"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
        for module in (text, unet, autoencoder):
            widen(module)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing=timestep_spacing,
    )
    pipeline = StableDiffusionPipeline(
        autoencoder, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    with quiet():
        pipeline.save_pretrained(path, variant=variant, safe_serialization=safetensors)
    return Path(path)


def ddpm(
    path: Path, *, prediction_type: str = "epsilon", seed: int = 0, safetensors: bool = True
) -> Path:
    """Saves a DDPMPipeline: an unconditional pixel model of 3x8x8 images, linear betas."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=8,
        )
        widen(unet)
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    DDPMPipeline(unet, scheduler).save_pretrained(path, safe_serialization=safetensors)
    return Path(path)


def widen(module: nn.Module) -> None:
    """Random initial weights barely answer to the prompt; wider ones show a swapped one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 2:
                wide = 1.0 if "embedding" in name else 2.0
                parameter.mul_(wide)
            if "token_embedding" in name:
                parameter.normal_()


def _byte_characters() -> list[str]:
    """A printable character for each of the 256 bytes, as byte-level pair encoding has them."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(len(others))]
