r"""The parts of the bundled model, as ordinary diffusers and transformers modules.

`shapes` has the anatomy of Stable Diffusion at a two-hundredth of its size:

============  ========================================  ===============================
part          maps                                      size
============  ========================================  ===============================
autoencoder   [3, 64, 64] pixels <-> [16, 8, 8]         1.29 M parameters, factor 8
text encoder  32 tokens -> [32, 128]                    0.29 M parameters, two layers
denoiser      [16, 8, 8], t, [32, 128] -> [16, 8, 8]    4.07 M parameters, predicts v
============  ========================================  ===============================

The denoiser predicts :math:`v = \alpha\,\epsilon - \sigma\,x_0`: its loss keeps a signal at
high noise, where colours and places are decided.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 16
TEXT_LENGTH = 32
TEXT_WIDTH = 128
START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


def autoencoder() -> "AutoencoderKL":
    """An untrained AutoencoderKL of factor 8 with 16 latent channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 80),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def denoiser() -> "UNet2DConditionModel":
    """An untrained UNet2DConditionModel that reads text in two ways.

    All of a caption, pooled, shifts and scales the channels of every block beside the time: it
    says what is drawn, and of two objects where. Its tokens one by one are attended to at 4 x 4.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        block_out_channels=(112, 112),
        layers_per_block=1,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, whatever the name says
        norm_num_groups=8,
    )


def scheduler() -> "DDPMScheduler":
    """Betas from 0.00085 to 0.02, scaled linearly: sigma/alpha runs from 0.029 to 66.

    Stable Diffusion stops at 15. A plain background is 64 latent cells that agree, so its colour
    would survive that much noise, and sampling from pure noise would start in the wrong place.
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def text_encoder(tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    """An untrained three-layer CLIPTextModel for the tokenizer's vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenizer(words: tuple[str, ...], folder: Path) -> "CLIPTokenizer":
    """A CLIPTokenizer that keeps every given word whole and spells any other in letters.

    Byte-pair merges are ranked by their place in the list, so a word is completed by appending
    merges to whatever the earlier words' merges leave of it; those words stay whole.

    Args:
        words: Lower-case words, all distinct.
        folder: Where vocab.json and merges.txt are written.
    """
    from transformers import CLIPTokenizer

    letters = sorted({c for w in words for c in w} | set("abcdefghijklmnopqrstuvwxyz"))
    pieces = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        split = _segment([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(split) > 1:
            merges.append((split[0], split[1]))
            pieces.append("".join(split[:2]))
            split = _segment(split, merges)
    vocabulary = list(dict.fromkeys([*pieces, UNKNOWN, START, END]))
    folder.mkdir(parents=True, exist_ok=True)
    ids = {piece: k for k, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=TEXT_LENGTH,
    )


def _segment(split: list[str], merges: list[tuple[str, str]]) -> list[str]:
    ranks = {pair: k for k, pair in enumerate(merges)}
    while True:
        pairs = list(zip(split, split[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)), default=None)
        if best is None or best not in ranks:
            return split
        k = pairs.index(best)
        split = [*split[:k], "".join(best), *split[k + 2 :]]
