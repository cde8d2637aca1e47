"""What models of full size weigh, counted from their configs without their weights.

    python benchmarks/memory.py           prints the table of docs/scaling.md

The networks are built on torch's meta device, where tensors have shapes and no numbers, and are
counted by `sdstoolkit.inspection`, which `sds info` asks about a folder. A config is either what
the class of diffusers or transformers has as its default, or was typed here after the published
config of the model; a column says which. `PUBLISHED` holds counts that are published elsewhere; a
test compares.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from sdstoolkit import inspection
from sdstoolkit.adapters._codecs import FrameCodec
from sdstoolkit.codec import Codec, KLCodec

PUBLISHED = {  # parameters of (model, part)
    ("Stable Diffusion 1.5", "network"): 859_520_964,
    ("Stable Diffusion 1.5", "text"): 123_060_480,
    ("Stable Diffusion 1.5", "autoencoder"): 83_653_863,
    ("Stable Diffusion XL", "network"): 2_567_463_684,
    ("Stable Diffusion XL", "text"): 123_060_480 + 694_659_840,
    ("Flux dev", "network"): 11_901_408_320,
    ("Flux dev", "text"): 123_060_480 + 4_762_310_656,
    ("Flux dev", "autoencoder"): 83_819_683,
    ("Wan 2.1, 1.3B", "network"): 1_418_996_800,
    ("Qwen-Image", "network"): 20_430_401_088,
    ("Qwen-Image", "text"): 8_292_166_656,
}


class Part(NamedTuple):
    """A network: its class, and what of its config is not the class's default."""

    library: str
    cls: str
    config: dict[str, Any]

    @property
    def origin(self) -> str:
        """Whether the sizes are the class's own."""
        return "typed" if self.config else "default"

    def build(self) -> nn.Module:
        """The network on the meta device."""
        library = __import__(self.library)
        cls = getattr(library, self.cls)
        with torch.device("meta"):
            if self.library == "diffusers":
                return cls(**self.config)
            return cls(cls.config_class(**self.config))


class Model(NamedTuple):
    """A model of a family, by its parts."""

    family: str
    name: str
    size: tuple[int, int]
    network: tuple[Part, ...]
    text: tuple[Part, ...]
    autoencoder: tuple[Part, ...]
    codec: Callable[..., Codec] = KLCodec


def diffusers(cls: str, **config: Any) -> tuple[Part]:
    return (Part("diffusers", cls, config),)


def transformers(cls: str, **config: Any) -> tuple[Part]:
    return (Part("transformers", cls, config),)


def clip_l(cls: str = "CLIPTextModel") -> tuple[Part]:
    return transformers(
        cls,
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        projection_dim=768,
    )


def clip_g() -> tuple[Part]:
    return transformers(
        "CLIPTextModelWithProjection",
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )


def t5(cls: str = "T5EncoderModel", **changes: int) -> tuple[Part]:
    xxl = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
    gated = {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
    return transformers(cls, **(gated | xxl | changes))


KL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
KL4 = diffusers("AutoencoderKL", **KL, latent_channels=4)
KL16 = diffusers(
    "AutoencoderKL", **KL, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
)
SD_UNET = {"cross_attention_dim": 768, "sample_size": 64}
GEMMA = transformers("Gemma2Model")
MODELS = (
    Model(
        "unet_2d", "DDPM, CelebA-HQ", (256, 256),
        diffusers(
            "UNet2DModel",
            sample_size=256,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            attention_head_dim=None,
        ),
        (), (),
    ),
    Model(
        "stable_diffusion", "Stable Diffusion 1.5", (512, 512),
        diffusers("UNet2DConditionModel", **SD_UNET), clip_l(), KL4,
    ),
    Model(
        "controlnet", "ControlNet of 1.5", (512, 512),
        diffusers("UNet2DConditionModel", **SD_UNET)
        + diffusers("ControlNetModel", cross_attention_dim=768),
        clip_l(), KL4,
    ),
    Model(
        "stable_diffusion", "Stable Diffusion 2.1", (768, 768),
        diffusers(
            "UNet2DConditionModel",
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        transformers(
            "CLIPTextModel",
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
        ),
        KL4,
    ),
    Model(
        "stable_diffusion_xl", "Stable Diffusion XL", (1024, 1024),
        diffusers(
            "UNet2DConditionModel",
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        clip_l() + clip_g(), KL4,
    ),
    Model(
        "stable_diffusion_3", "Stable Diffusion 3 medium", (1024, 1024),
        diffusers(
            "SD3Transformer2DModel",
            num_layers=24,
            num_attention_heads=24,
            caption_projection_dim=1536,
            pos_embed_max_size=192,
        ),
        clip_l("CLIPTextModelWithProjection") + clip_g() + t5(), KL16,
    ),
    Model(
        "dit", "DiT-XL/2", (256, 256),
        diffusers("DiTTransformer2DModel", out_channels=8), (), KL4,
    ),
    Model(
        "pixart", "PixArt-alpha XL/2", (1024, 1024),
        diffusers("PixArtTransformer2DModel"), t5(), KL4,
    ),
    Model(
        "sana", "Sana 1.6B", (1024, 1024), diffusers("SanaTransformer2DModel"), GEMMA,
        diffusers(
            "AutoencoderDC",
            **{
                f"{half}_{key}": value
                for half, layers in (("encoder", (2, 2, 2, 3, 3, 3)), ("decoder", (3,) * 6))
                for key, value in {
                    "block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
                    "block_out_channels": (128, 256, 512, 512, 1024, 1024),
                    "layers_per_block": layers,
                    "qkv_multiscales": ((),) * 3 + ((5,),) * 3,
                }.items()
            },
            downsample_block_type="conv",
            upsample_block_type="interpolate",
        ),
    ),
    Model(
        "lumina_2", "Lumina Image 2.0", (1024, 1024),
        diffusers("Lumina2Transformer2DModel"), GEMMA, KL16,
    ),
    Model(
        "aura_flow", "AuraFlow", (1024, 1024), diffusers("AuraFlowTransformer2DModel"),
        t5("UMT5EncoderModel", d_model=2048, d_ff=5120, num_heads=32), KL4,
    ),
    Model(
        "z_image", "Z-Image", (1024, 1024), diffusers("ZImageTransformer2DModel"),
        transformers(
            "Qwen3Model",
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
        ),
        KL16,
    ),
    Model(
        "flux", "Flux dev", (1024, 1024),
        diffusers("FluxTransformer2DModel", guidance_embeds=True), clip_l() + t5(), KL16,
    ),
    Model(
        "wan", "Wan 2.1, 1.3B", (480, 832),
        diffusers("WanTransformer3DModel", num_attention_heads=12, ffn_dim=8960, num_layers=30),
        t5("UMT5EncoderModel", vocab_size=256384), diffusers("AutoencoderKLWan"), FrameCodec,
    ),
    Model(
        "wan", "Wan 2.1, 14B", (480, 832), diffusers("WanTransformer3DModel"),
        t5("UMT5EncoderModel", vocab_size=256384), diffusers("AutoencoderKLWan"), FrameCodec,
    ),
    Model(
        "qwen_image", "Qwen-Image", (1328, 1328), diffusers("QwenImageTransformer2DModel"),
        transformers(
            "Qwen2_5_VLForConditionalGeneration",
            text_config={
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "vocab_size": 152064,
            },
            vision_config={"hidden_size": 1280, "out_hidden_size": 3584, "depth": 32},
        ),
        diffusers("AutoencoderKLQwenImage"), FrameCodec,
    ),
)  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16)
KINDS = ("network", "text", "autoencoder")


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network in a dtype, but for what diffusers leaves in float32 whatever is asked for."""
    stays = getattr(module, "_keep_in_fp32_modules", None) or ()
    stays = stays if type(module).__module__.startswith("diffusers.") else ()
    for name, parameter in module.named_parameters():
        if not set(name.split(".")) & set(stays):
            parameter.data = parameter.data.to(dtype)
    return module


def figures(
    part: Part, model: Model, known: dict[str, list[tuple[inspection.Weights, int]]]
) -> list[tuple[inspection.Weights, int]]:
    """Of each dtype, what a part weighs and what it keeps if it is an autoencoder; built once."""
    encodes = part in model.autoencoder
    key = f"{part} {model.size if encodes else ''}"
    if key not in known:
        module, known[key] = part.build(), []
        for dtype in DTYPES:
            weighed = inspection.weigh(part.cls, cast(module, dtype))
            kept = inspection.kept(model.codec(module), size=model.size) if encodes else 0
            known[key].append((weighed, kept))
    return known[key]


def origins(model: Model) -> str:
    """Of the network's, the text encoders' and the autoencoder's config."""
    groups = (model.network, model.text, model.autoencoder)
    found = (dict.fromkeys(part.origin for part in parts) for parts in groups if parts)
    return ", ".join(" and ".join(kinds) for kinds in found)


def counts() -> dict[tuple[str, str], list[tuple[int, int, int]]]:
    """(model, part) -> of each dtype the parameters, their bytes, and what the encoder keeps."""
    known: dict[str, list[tuple[inspection.Weights, int]]] = {}
    found = {}
    for model in MODELS:
        for kind, parts in zip(KINDS, (model.network, model.text, model.autoencoder), strict=True):
            every = [figures(part, model, known) for part in parts]
            found[model.name, kind] = [
                (
                    sum(weighed.parameters for weighed, _ in each),
                    sum(weighed.bytes for weighed, _ in each),
                    sum(kept for _, kept in each),
                )
                for each in (map(list, zip(*every, strict=True)) if every else ([], []))
            ]
    return found


def table(found: dict[tuple[str, str], list[tuple[int, int, int]]] | None = None) -> str:
    """The table, in Markdown; of `counts` if they are known already."""
    found = counts() if found is None else found
    head = ["model", "family", "image", *(f"{kind}, M" for kind in KINDS)]
    head += ["weights float32, GiB", "bfloat16", "encoder keeps float32, GiB", "bfloat16"]
    head += ["configs"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for model in MODELS:
        mine = [found[model.name, kind] for kind in KINDS]
        cells = [model.name, f"`{model.family}`", "{} x {}".format(*model.size)]
        cells += [f"{each[0][0] / 1e6:,.0f}" if each[0][0] else "" for each in mine]
        cells += [f"{sum(each[k][1] for each in mine) / 2**30:.1f}" for k in range(len(DTYPES))]
        kept = [mine[-1][k][2] / 2**30 for k in range(len(DTYPES))]
        cells += [f"{size:.1f}" if size else "" for size in kept]
        lines.append(f"| {' | '.join([*cells, origins(model)])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
