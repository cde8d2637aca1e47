"""From nothing to a model folder: run the stages of :mod:`sdstoolkit.toy.recipe` and pack them.

The result is an ordinary Stable Diffusion folder. What it was trained on, for how long and what it
reached is its README.md, the model card, written from the run's own records.
"""

import json
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdstoolkit.toy import data, networks, reading, recipe
from sdstoolkit.toy.drawings import drawings as make_drawings
from sdstoolkit.toy.training import ALONE, History, Plan, Share, save_tensors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the bundled model was given.

    Args:
        drawings: Pictures in the data set.
        autoencoder: Steps of 16 pictures.
        text: Steps of 128 captions.
        denoiser: Steps of 64 latents.
        seed: Names the run.
    """

    drawings: int = 49_152
    autoencoder: int = 2_000
    text: int = 1_000
    denoiser: int = 6_000
    seed: int = 0


def train_shapes(
    run: Path, out: Path, budget: Budget, *, share: Share = ALONE
) -> dict[str, History]:
    """Train `shapes` and pack it into a model folder.

    Args:
        run: Where checkpoints and the data set are kept; a stopped run goes on from there.
        out: The model folder to write.
        budget: How much of everything.
        share: This process's part of the work, if there are several; the first one writes.

    Returns:
        The history of each stage by name.
    """
    from safetensors.torch import load_file

    seed = budget.seed
    drawn = make_drawings(budget.drawings, seed=seed, file=run / "drawings.safetensors")

    torch.manual_seed(seed)
    autoencoder = networks.autoencoder()
    plan = Plan(steps=budget.autoencoder, lr=2e-3, seed=seed + 1)
    histories = {"autoencoder": recipe.train_autoencoder(
        autoencoder, drawn, plan, checkpoint=run / "autoencoder.safetensors", share=share
    )}  # fmt: skip

    kept = run / "latents.safetensors"
    if kept.exists():
        latents = load_file(kept)["latents"]
        autoencoder.register_to_config(scaling_factor=load_file(kept)["scale"].item())
    else:
        latents = recipe.encode_once(autoencoder, drawn)
        scale = torch.tensor(autoencoder.config.scaling_factor, dtype=torch.float64)
        if share.rank == 0:
            save_tensors(kept, {"latents": latents, "scale": scale}, {})

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = networks.tokenizer(data.vocabulary(), Path(folder))
    ids = reading.captions(drawn, tokenizer, seed=seed + 2)
    torch.manual_seed(seed + 3)
    text_encoder, unet = networks.text_encoder(tokenizer), networks.denoiser()
    plan = Plan(steps=budget.text, lr=2e-3, seed=seed + 4)
    histories["text encoder"] = reading.train_text_encoder(
        text_encoder, drawn, ids, plan, checkpoint=run / "text_encoder.safetensors", share=share
    )
    plan = Plan(steps=budget.denoiser, lr=1e-3, warmup=300, seed=seed + 5)
    empty = reading.tokens(tokenizer, [""])[0]
    histories["denoiser"] = recipe.train_denoiser(
        unet,
        text_encoder,
        latents,
        ids,
        empty,
        plan,
        checkpoint=run / "denoiser.safetensors",
        share=share,
    )
    if share.rank > 0:
        return histories
    reading.forget_unused_words(text_encoder, ids)
    pack(out, autoencoder, unet, text_encoder, tokenizer)
    record = {
        "budget": asdict(budget),
        "histories": {name: vars(history) for name, history in histories.items()},
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }
    (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return histories


def pack(
    out: Path,
    autoencoder: "AutoencoderKL",
    unet: "UNet2DConditionModel",
    text_encoder: "CLIPTextModel",
    tokenizer: "CLIPTokenizer",
) -> None:
    """Write the model folder that StableDiffusionPipeline.from_pretrained opens."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=networks.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (autoencoder, unet, text_encoder):
        module.to(memory_format=torch.contiguous_format)
    pipeline.save_pretrained(out, safe_serialization=True)
