"""The page of families, made from their own files so that it cannot be out of date."""

from importlib.util import find_spec

from sdstoolkit.adapters import Family, catalogue

HEAD = """\
# Families of pretrained models

This page is made by `sds models --markdown` from the files of `sdstoolkit/adapters/`; a test keeps
it so. `load` takes a folder that one of these pipelines saved, or the name of a repository of the
Hugging Face hub that holds such a folder.

| family | models | pipelines | takes | needs | for example |
|---|---|---|---|---|---|
"""
TAIL = """
## What a prior is told

`prior.condition(...)` takes what the table says, and names what it does not take. Some families
take more:

- SDXL: `original=(h, w)` and `crop=(top, left)` of the training image it is told of, and its
  refiner `aesthetic=`, 1 to 10. Its null prompt is zeros where the folder asks for that; `" "` is
  the encoded empty prompt.
- Flux dev and latent consistency models are distilled for guidance: `guidance=` is the scale that
  they answer for, 3.5 and 8.5 unless told otherwise.
- ControlNet: `strength=` of the hint.
- Kandinsky 2.2: `embedding=` of an image, which KandinskyV22PriorPipeline makes of a prompt.
- Prompts of IF, PixArt and Sana become lower case, as in their training; Lumina 2, Qwen-Image and
  Z-Image put theirs into the templates of their pipelines. Sana's long instruction is left out.

`Told(prior, {"hint": hint})` of `sdstoolkit.prior` is a prior that is always told the same besides
the prompt, for losses and whatever else asks a prior for prompts. On the command line, where there
is a prompt, there are `--label`, `--hint`, `--hint-strength`, `--guidance`, `--embedding`, and
`--image` and `--mask` where a verb has no image of its own (`sds edit` tells its own):

```
sds sample --model facebook/DiT-XL-2-256 --label 207 --out dogs
sds sample "make it night" --model timbrooks/instruct-pix2pix --image day.png --out night
sds optimize "a red fox" --model CONTROLNET --hint edges.png --hint-strength 0.7 --out fox
```

## Guidance

`ClassifierFree` is the rule of all pipelines but four, whose rules are objects of
`sdstoolkit.guidance`: `RowNorm` (Lumina 2), `TokenNorm` (Qwen-Image), `Extrapolated` (Z-Image,
whose scale is one less) and `InstructPix2Pix` (a scale for the instruction and one for the image).

## Schedules

What a network was trained on is read from its scheduler's config: a table of betas, a rectified
flow, EDM or the score SDE. A shift decides on the times that a sampler visits and not on the path:
`prior.score.shift` is that of the config, and `grids.Shifted` visits its times.

A latent consistency model is drawn from by `samplers.consistency`,
`Consistency(prior.score, steps=4, grid=Distilled())`, and the score SDE as it was published by
`PredictorCorrector(prior.score, measured=True, wide=True)`: both are their pipelines', noise by
noise.

## What `load` adds

`loras=[...]` (files, folders or hub names, or `LoRA(source, scale)`), `tokens=[...]` (textual
inversions, or `Token(source, word)`), `autoencoder=` (another one for the same latents, such as an
AutoencoderTiny), `checkpointing=` (of the encoder's backward pass), `channels_last=`, `compile=`,
`text_on_cpu=`, `layers_on_cpu=`. In float16 the autoencoders of SDXL and AuraFlow stay in float32
where their config has `force_upcast`. Manifests record what was added. Every verb that opens a
model takes the same: `--loras style.safetensors=0.7`, `--tokens thing.safetensors=sks`,
`--autoencoder`, `--variant`, `--revision`, `--checkpointing`, `--channels-last`, `--compile`,
`--text-on-cpu`, `--layers-on-cpu`, `--device` and `--dtype`.
"""


def missing(family: Family) -> tuple[str, ...]:
    """The modules that a family needs and that are not installed."""
    return tuple(name for name in family.needs if find_spec(name) is None)


def markdown() -> str:
    """The page."""
    rows = []
    for family in catalogue():
        cells = (
            f"`{family.name}`",
            family.title,
            ", ".join(f"`{pipeline}`" for pipeline in family.pipelines),
            family.takes,
            ", ".join(f"`{name}`" for name in family.needs) or "nothing more",
            ", ".join(f"`{name}`" for name in family.examples) or "any of your own",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(rows) + TAIL
