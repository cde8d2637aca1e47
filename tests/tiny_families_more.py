"""The rest of `tiny_families`: the kin of Stable Diffusion, pixel models, language models.

Imported by it; `BUILDERS` here goes into its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import tiny_families as tiny
import tiny_models


def stable_diffusion(kind: str, *, extra: int = 0, **unet: Any) -> Any:
    """A pipeline of Stable Diffusion's kin, with a DDIM scheduler."""
    import diffusers

    components = {
        "vae": tiny.autoencoder(),
        "text_encoder": tiny.clip(projects=False),
        "tokenizer": tiny.clip_tokenizer(),
        "unet": tiny.unet(in_channels=4 + extra, **unet),
        "scheduler": tiny.ddim(**tiny.SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return getattr(diffusers, kind)(**components, requires_safety_checker=False)


def controlnet() -> Any:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
    from torch import nn

    plain = stable_diffusion("StableDiffusionPipeline").components
    control = ControlNetModel.from_unet(
        plain["unet"],
        conditioning_embedding_out_channels=(8, 8),
        controlnet_conditioning_channel_order="rgb",
    )
    for layer in (
        *control.controlnet_down_blocks,
        control.controlnet_mid_block,
        control.controlnet_cond_embedding.conv_out,
    ):
        nn.init.normal_(layer.weight, std=0.3)  # they begin at zero, and would say nothing
    components = {k: v for k, v in plain.items() if k != "image_encoder"}
    return StableDiffusionControlNetPipeline(
        **components, controlnet=control, requires_safety_checker=False
    )


def latent_consistency() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        tiny.autoencoder(),
        tiny.clip(projects=False),
        tiny.clip_tokenizer(),
        tiny.unet(time_cond_proj_dim=32),
        LCMScheduler(**tiny.SCALED_LINEAR, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )


def pixels(**changes: Any) -> Any:
    from diffusers import UNet2DModel

    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return UNet2DModel(**(config | changes))


def latent_diffusion() -> Any:
    from diffusers import LDMPipeline, VQModel

    autoencoder = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        num_vq_embeddings=16,
        scaling_factor=0.5,
    )
    autoencoder.quantize.embedding.weight.data.normal_()  # words as wide as the codes
    scheduler = tiny.ddim(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    return LDMPipeline(autoencoder, pixels(), scheduler)


def score_sde_ve() -> Any:
    from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler

    network = pixels(time_embedding_type="fourier")
    scheduler = ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    return ScoreSdeVePipeline(network, scheduler)


SIMPLE = {
    "sample_size": 8,
    "out_channels": 6,
    "in_channels": 3,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 32,
    "encoder_hid_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
}


def learned(**changes: Any) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(variance_type="learned_range", clip_sample=False, **changes)


def deepfloyd_if() -> Any:
    from diffusers import IFPipeline, UNet2DConditionModel

    network = UNet2DConditionModel(
        **SIMPLE,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        act_fn="gelu",
    )
    scheduler = learned(beta_schedule="squaredcos_cap_v2")
    return IFPipeline(
        tiny.t5_tokenizer(),
        tiny.t5(32),
        network,
        scheduler,
        None,
        None,
        None,
        requires_safety_checker=False,
    )


def kandinsky_2_2() -> Any:
    from diffusers import KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    network = UNet2DConditionModel(
        **(SIMPLE | {"in_channels": 4, "out_channels": 8}),
        addition_embed_type="image",
        encoder_hid_dim_type="image_proj",
    )
    autoencoder = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=16,
        vq_embed_dim=4,
    )
    return KandinskyV22Pipeline(network, learned(beta_start=0.00085, beta_end=0.012), autoencoder)


# --- language models


def gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{b:02X}>" for b in range(256))]
    words += ["\u2581", "r", "e", "d", "re", "red"]
    return GemmaTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[("r", "e"), ("re", "d")],
        padding_side="right",
    )


def gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(gemma_tokenizer()),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=1024,
        )
    )


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    characters = tiny_models._byte_characters()
    words = [*characters, "re", "red", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[("r", "e"), ("re", "d")]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    return tokenizer


def sana() -> Any:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        timestep_scale=0.9,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=1
    )
    return SanaPipeline(gemma_tokenizer(), gemma(), autoencoder, transformer, scheduler)


def aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    return AuraFlowPipeline(
        tiny.t5_tokenizer(),
        tiny.t5(32, kind="UMT5"),
        tiny.autoencoder(),
        transformer,
        tiny.flow_match(shift=1.73),
    )


def lumina_2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )
    return Lumina2Pipeline(
        transformer,
        tiny.flow_match(use_dynamic_shifting=True),
        tiny.flux_autoencoder(),
        gemma(),
        gemma_tokenizer(),
    )


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=1024,
        )
    )
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        tiny.flow_match(shift=3.0), tiny.flux_autoencoder(), encoder, tokenizer, transformer
    )


def qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "default",
            "mrope_section": [1, 1, 2],
        },
        "max_position_embeddings": 2048,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    autoencoder = AutoencoderKLQwenImage(**VIDEO, num_res_blocks=1)
    scheduler = tiny.flow_match(use_dynamic_shifting=True, shift_terminal=0.02)
    return QwenImagePipeline(scheduler, autoencoder, encoder, tokenizer, transformer)


VIDEO = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2],
    "temperal_downsample": [False],
    "latents_mean": [0.1, -0.2, 0.3, 0.4],
    "latents_std": [0.9, 1.1, 1.2, 0.8],
}


def wan() -> Any:
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    autoencoder = AutoencoderKLWan(**VIDEO, num_res_blocks=1, scale_factor_spatial=2)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5(32, kind="UMT5"),
        vae=autoencoder,
        scheduler=scheduler,
        transformer=transformer,
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "inpaint": functools.partial(stable_diffusion, "StableDiffusionInpaintPipeline", extra=5),
    "instruct_pix2pix": functools.partial(
        stable_diffusion, "StableDiffusionInstructPix2PixPipeline", extra=4
    ),
    "controlnet": controlnet,
    "lcm": latent_consistency,
    "latent_diffusion": latent_diffusion,
    "score_sde_ve": score_sde_ve,
    "deepfloyd_if": deepfloyd_if,
    "kandinsky_2_2": kandinsky_2_2,
    "sana": sana,
    "aura_flow": aura_flow,
    "lumina_2": lumina_2,
    "z_image": z_image,
    "qwen_image": qwen_image,
    "wan": wan,
}
