"""Tiny random pipelines of every family, built from configs and saved as diffusers folders.

As `tiny_models`, of which this is the rest: latents are 8x8, the autoencoder's factor is 2, so
that an image is 16x16; a model is well under 2 MB. Tokenizers are made here and know every
printable character. `BUILDERS` maps a name to what builds it.
"""

import functools
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch
from torch import nn

from sdstoolkit.adapters._checkpoint import quiet

SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@functools.cache
def folder(name: str) -> Path:
    """The shared folder of one of `BUILDERS`, built when it is first asked for."""
    path = tiny_models._root() / name
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = BUILDERS[name]()
        for component in pipeline.components.values():
            if isinstance(component, nn.Module):
                tiny_models.widen(component)
        pipeline.save_pretrained(path)
    return path


# --- parts


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    path = tiny_models._root() / "clip_tokenizer"
    return CLIPTokenizer.from_pretrained(tiny_models.clip_tokenizer(path))


def clip(*, projects: bool, width: int = 16) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    letters = string.ascii_letters + string.digits + string.punctuation
    pieces += [(letter, -3.0) for letter in letters] + [("\u2581heart", -1.0), ("\u2581red", -1.0)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def t5(width: int = 16, *, kind: str = "T5") -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return getattr(transformers, f"{kind}EncoderModel")(config)


def autoencoder(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    config = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**(config | changes))


def unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(config | changes))


# --- Stable Diffusion XL


def sdxl(scheduler: Any, **vae: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        autoencoder(force_upcast=True, scaling_factor=0.13025, **vae),
        clip(projects=False),
        clip(projects=True, width=32),
        clip_tokenizer(),
        clip_tokenizer(),
        unet(
            cross_attention_dim=48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        scheduler,
        add_watermarker=False,
    )


def sdxl_euler() -> Any:
    from diffusers import EulerDiscreteScheduler

    return sdxl(
        EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1)
    )


def sdxl_edm_v() -> Any:
    from diffusers import EDMEulerScheduler

    return sdxl(
        EDMEulerScheduler(
            sigma_schedule="exponential",
            sigma_min=0.002,
            sigma_max=120.0,
            sigma_data=1.0,
            prediction_type="v_prediction",
        )
    )


def sdxl_edm_epsilon() -> Any:
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, solver_order=1
    )
    return sdxl(scheduler, latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[0.9, 1.1, 1.2, 0.8])


def sdxl_refiner() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    return StableDiffusionXLImg2ImgPipeline(
        autoencoder(force_upcast=True, scaling_factor=0.13025),
        None,
        clip(projects=True, width=32),
        None,
        clip_tokenizer(),
        unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 5 * 8,
        ),
        EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


# --- transformers


def ddim(**changes: Any) -> Any:
    """A DDIM scheduler that goes from the last entry down to clean, without clipping."""
    from diffusers import DDIMScheduler

    plain = {"clip_sample": False, "timestep_spacing": "trailing"}
    return DDIMScheduler(**(plain | changes))


def flow_match(**changes: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**changes)


def flux_autoencoder() -> Any:
    return autoencoder(
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )


def sd3(*, third: bool = True) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=16,
        pooled_projection_dim=48,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer,
        flow_match(shift=3.0),
        autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        clip(projects=True),
        clip_tokenizer(),
        clip(projects=True, width=32),
        clip_tokenizer(),
        t5(64) if third else None,
        t5_tokenizer() if third else None,
    )


def flux(scheduler: Any, *, guided: bool) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler,
        flux_autoencoder(),
        clip(projects=False),
        clip_tokenizer(),
        t5(32),
        t5_tokenizer(),
        transformer,
    )


def flux_dev() -> Any:
    return flux(flow_match(use_dynamic_shifting=True, shift=3.0), guided=True)


def flux_schnell() -> Any:
    return flux(flow_match(shift=1.0), guided=False)


def pixart(*, sigma: bool) -> Any:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    transformer = PixArtTransformer2DModel(
        sample_size=8 if sigma else 128,  # at which alpha is told the size
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        cross_attention_dim=24,
        caption_channels=32,
        interpolation_scale=1.0,
        use_additional_conditions=not sigma,
    )
    cls = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return cls(
        t5_tokenizer(),
        t5(32),
        autoencoder(),
        transformer,
        DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
    )


def dit() -> Any:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
    )
    return DiTPipeline(transformer, autoencoder(), ddim(), id2label={"0": "heart", "1": "star"})


BUILDERS: dict[str, Callable[[], Any]] = {
    "sdxl": sdxl_euler,
    "sdxl_edm_v": sdxl_edm_v,
    "sdxl_edm_epsilon": sdxl_edm_epsilon,
    "sdxl_refiner": sdxl_refiner,
    "sd3": sd3,
    "sd3_without_t5": lambda: sd3(third=False),
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
    "pixart_alpha": lambda: pixart(sigma=False),
    "pixart_sigma": lambda: pixart(sigma=True),
    "dit": dit,
}

import tiny_families_more  # noqa: E402  (it needs the parts above)

BUILDERS |= tiny_families_more.BUILDERS
