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
from torch import Tensor

from sdstoolkit.toy import data, networks, reading, recipe
from sdstoolkit.toy.drawings import Drawings
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

    drawings: int = 65_536
    autoencoder: int = 3_500
    text: int = 1_500
    denoiser: int = 12_000
    seed: int = 0


def train_shapes(
    run: Path,
    out: Path,
    budget: Budget,
    *,
    start: Path | None = None,
    share: Share = ALONE,
) -> dict[str, History]:
    """Train `shapes` and pack it into a model folder.

    Args:
        run: Where checkpoints and the data set are kept; a stopped run goes on from there.
        out: The model folder to write.
        budget: How much of everything.
        start: A model folder to go on from: its autoencoder is kept, and its denoiser and text
            encoder are trained further; None starts from nothing.
        share: This process's part of the work, if there are several; the first one writes.

    Returns:
        The history of each stage by name.
    """
    seed = budget.seed
    drawn = make_drawings(budget.drawings, seed=seed, file=run / "drawings.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = networks.tokenizer(data.vocabulary(), Path(folder))
    ids = reading.captions(drawn, tokenizer, seed=seed + 2)
    histories: dict[str, History] = {}
    if start is None:
        torch.manual_seed(seed)
        autoencoder = networks.autoencoder()
        plan = Plan(steps=budget.autoencoder, lr=2e-3, warmup=50, seed=seed + 1, muon=True)
        file = run / "autoencoder.safetensors"
        histories["autoencoder"] = recipe.train_autoencoder(
            autoencoder, drawn, plan, checkpoint=file, share=share
        )
        torch.manual_seed(seed + 3)
        text_encoder, unet = networks.text_encoder(tokenizer), networks.denoiser()
        plan = Plan(steps=budget.text, lr=2e-3, seed=seed + 4, muon=True)
        file = run / "text_encoder.safetensors"
        histories["text encoder"] = reading.train_text_encoder(
            text_encoder, drawn, ids, plan, checkpoint=file, share=share
        )
    else:
        autoencoder, text_encoder, unet = unpack(start)
    latents = _latents(run / "latents.safetensors", autoencoder, drawn, share)
    plan = Plan(steps=budget.denoiser, lr=2e-3, warmup=100, seed=seed + 5, muon=True)
    histories["denoiser"] = recipe.train_denoiser(
        unet,
        text_encoder,
        drawn.scenes,
        latents,
        ids,
        reading.tokens(tokenizer, [""])[0],
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


def _latents(file: Path, autoencoder: "AutoencoderKL", drawn: Drawings, share: Share) -> Tensor:
    """The latents of the drawings, encoded once; sets the autoencoder's scaling_factor."""
    from safetensors.torch import load_file

    if file.exists():
        kept = load_file(file)
        autoencoder.register_to_config(scaling_factor=kept["scale"].item())
        return kept["latents"]
    latents = recipe.encode_once(autoencoder, drawn)
    scale = torch.tensor(autoencoder.config.scaling_factor, dtype=torch.float64)
    if share.rank == 0:
        save_tensors(file, {"latents": latents, "scale": scale}, {})
    return latents


def unpack(folder: Path) -> tuple["AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"]:
    """The trainable parts of a model folder that :func:`pack` wrote.

    Raises:
        OSError: The folder is not such a model.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return (
        AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True),
        CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True),
        UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True),
    )


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
