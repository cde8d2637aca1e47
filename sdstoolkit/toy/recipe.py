r"""How `shapes` is trained: drawings, autoencoder, text encoder, denoiser, folder.

1. Draw the data set once.
2. Autoencoder, on pictures with a little white noise that it must not keep,

   .. math:: \operatorname{mean}|D(z) - x|^2 + \lambda \operatorname{mean} KL(q(z|x + n) \| N(0, I)).

3. Text encoder: read every attribute of the drawing off its caption, by one learned query each.
4. Denoiser and text encoder: with one caption in ten empty,

   .. math:: \operatorname{mean}|v_\theta(\alpha x_0 + \sigma\epsilon, t, c) - (\alpha\epsilon - \sigma x_0)|^2.

Every stage has a checkpoint and is skipped when its result is there. Sources: Rombach et al. 2022,
https://arxiv.org/abs/2112.10752; Salimans and Ho 2022, https://arxiv.org/abs/2202.00512.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from sdstoolkit.noise import Discrete
from sdstoolkit.prediction import V
from sdstoolkit.toy import data, networks
from sdstoolkit.toy.training import History, Loss, Plan, fit, save_tensors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

CAPTIONS_A_DRAWING = 4


@dataclass(frozen=True)
class Share:
    """What one of several processes does of every batch.

    All of them draw the same numbers and each works on its rows, so that the average of their
    gradients is the gradient of the whole batch: a seed names the same run on any number of them.

    Args:
        rank: Which process this is, from 0.
        world: How many there are; batches must be multiples of it.
        reduce: Averages a vector over the processes.
    """

    rank: int = 0
    world: int = 1
    reduce: Callable[[Tensor], Tensor] | None = None

    def of(self, rows: Tensor) -> Tensor:
        """The rows of a batch that are this process's."""
        return rows[self.rank :: self.world]

    def fit(
        self,
        network: nn.Module,
        loss: Loss,
        plan: Plan,
        *,
        checkpoint: Path | None,
        name: str,
        watch: Callable[[int], Mapping[str, float]] | None = None,
    ) -> History:
        """:func:`fit`, together with the other processes; the first one writes."""
        return fit(
            network,
            loss,
            plan,
            checkpoint=checkpoint,
            name=name,
            reduce=self.reduce,
            writes=self.rank == 0,
            watch=watch,
        )


ALONE = Share()


@dataclass(frozen=True)
class Drawings:
    """The data set: uint8 images [n, 3, 64, 64] and the scenes they show."""

    images: Tensor
    scenes: data.Scenes

    def pictures(self, rows: Tensor | slice) -> Tensor:
        """The images of some rows, float32 in [0, 1]."""
        return self.images[rows].float() / 255


def drawings(n: int, *, seed: int = 0, file: Path | None = None) -> Drawings:
    """Draw n scenes, or read them back from the file that an earlier call wrote."""
    if file is not None and file.exists():
        tensors = load_file(file)
        images = tensors.pop("image")
        return Drawings(images, data.Scenes(**tensors))
    from tqdm import tqdm

    rng = torch.Generator().manual_seed(seed)
    scenes, images = [], []
    for start in tqdm(range(0, n, 512), "drawings"):
        scenes.append(data.draw_scenes(min(512, n - start), rng))
        images.append((data.render(scenes[-1], rng) * 255).round().byte())
    made = Drawings(torch.cat(images), data.Scenes.cat(scenes))
    if file is not None:
        columns = {f.name: getattr(made.scenes, f.name) for f in fields(data.Scenes)}
        save_tensors(file, {"image": made.images, **columns}, {"seed": str(seed)})
    return made


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
    """Stage 2. One encoder and one decoder pass, forward and backward, a step.

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
    model.to(memory_format=torch.channels_last)

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(drawn.images), (batch,), generator=rng)
        x = 2 * drawn.pictures(share.of(rows)) - 1
        level = 2 * noise * share.of(torch.rand(batch, 1, 1, 1, generator=rng))
        white = share.of(torch.randn(batch, *x.shape[1:], generator=rng))
        posterior = model.encode(x + level * white).latent_dist
        draw = share.of(torch.randn(batch, *posterior.mean.shape[1:], generator=rng))
        x_hat = model.decode(posterior.mean + posterior.std * draw).sample
        elements = posterior.mean[0].numel()
        return F.mse_loss(x_hat, x) + kl * posterior.kl().mean() / elements

    return share.fit(model, loss, plan, checkpoint=checkpoint, name="autoencoder")


def psnr(model: "AutoencoderKL", images: Tensor) -> Tensor:
    """Reconstruction of images in [0, 1], in dB a picture, [n]; the decoder's output is clipped."""
    with torch.no_grad():
        x_hat = torch.cat([
            model.decode(model.encode(2 * x - 1).latent_dist.mean).sample for x in images.split(64)
        ])
    error = ((x_hat + 1) / 2).clamp(0, 1) - images
    return -10 * error.square().flatten(1).mean(1).log10()


@torch.no_grad()
def encode_once(model: "AutoencoderKL", drawn: Drawings) -> Tensor:
    """The latent means of every drawing, scaled to unit variance; sets the model's scaling_factor.

    Cost: one encoder pass a drawing. Returns float32 [n, 16, 8, 8].
    """
    from tqdm import tqdm

    chunks = tqdm(torch.arange(len(drawn.images)).split(256), "latents")
    means = [model.encode(2 * drawn.pictures(rows) - 1).latent_dist.mean for rows in chunks]
    latents = torch.cat([m.contiguous() for m in means])
    scale = 1 / float(latents.std())
    model.register_to_config(scaling_factor=scale)
    return latents * scale


def captions(drawn: Drawings, tokenizer: "CLIPTokenizer", *, seed: int = 0) -> Tensor:
    """Token ids of CAPTIONS_A_DRAWING random captions a drawing, int64 [n, 4, 32]."""
    from tqdm import tqdm

    rng = torch.Generator().manual_seed(seed)
    texts = [
        data.caption(drawn.scenes, i, rng)
        for i in tqdm(range(len(drawn.images)), "captions")
        for _ in range(CAPTIONS_A_DRAWING)
    ]
    return tokens(tokenizer, texts).view(len(drawn.images), CAPTIONS_A_DRAWING, -1)


def tokens(tokenizer: "CLIPTokenizer", texts: list[str]) -> Tensor:
    """Token ids padded to the text encoder's length, int64 [n, 32]."""
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt").input_ids


class Reader(nn.Module):
    """Reads the attributes of a scene off its caption: one query and one linear map each.

    An attribute that a caption leaves out is answered by its share in the data, as it should be.
    Attributes of the second object and the relation count only where there are two objects.
    """

    sizes = {
        "count": 2, "background": 8, "quality": 5, "relation": 4,
        "shape 1": 9, "colour 1": 8, "size 1": 2, "shape 2": 9, "colour 2": 8, "size 2": 2,
    }  # fmt: skip

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        width = networks.TEXT_WIDTH
        self.queries = nn.Parameter(torch.randn(len(self.sizes), width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.sizes.values())

    def loss(self, ids: Tensor, scenes: data.Scenes) -> Tensor:
        """Mean cross-entropy of the attributes, in nats."""
        states = self.text_encoder(ids).last_hidden_state
        answers = self.attention(self.queries.expand(len(ids), -1, -1), states, states)[0]
        truth = [scenes.count - 1, scenes.background, scenes.quality, scenes.relation]
        for k in range(2):
            truth += [scenes.shape[:, k], scenes.colour[:, k], scenes.size[:, k]]
        pair = scenes.count == 2
        always = torch.ones_like(pair)
        counted = [always] * 3 + [pair] + [always] * 3 + [pair] * 3
        losses = [
            F.cross_entropy(head(answers[:, k]), truth[k], reduction="none")[counted[k]].mean()
            for k, head in enumerate(self.heads)
        ]
        return torch.stack(losses).mean()


def train_text_encoder(
    text_encoder: nn.Module,
    drawn: Drawings,
    ids: Tensor,
    plan: Plan,
    *,
    batch: int = 128,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> History:
    """Stage 3: fit a Reader around the text encoder. One pass of 32 tokens a caption and step."""
    reader = Reader(text_encoder)

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(ids), (batch,), generator=rng)
        which = torch.randint(CAPTIONS_A_DRAWING, (batch,), generator=rng)
        mine = share.of(rows)
        return reader.loss(ids[mine, share.of(which)], drawn.scenes[mine])

    return share.fit(reader, loss, plan, checkpoint=checkpoint, name="text encoder")


def train_denoiser(
    unet: nn.Module,
    text_encoder: nn.Module,
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
    """Stage 4. One denoiser and one text-encoder pass, forward and backward, a step.

    Args:
        unet: Trained in place, and ``text_encoder`` with it.
        text_encoder: As stage 3 left it.
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
    schedule = Discrete(networks.scheduler().alphas_cumprod.double())
    v = V()
    unet.to(memory_format=torch.channels_last)

    def error(rows: Tensor, tokens: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        x_0 = latents[rows]
        level = schedule.level(t, x_0)
        x_t = level.perturb(x_0, eps).contiguous(memory_format=torch.channels_last)
        states = text_encoder(tokens).last_hidden_state
        time = schedule.timestep(t).float()
        output = unet(x_t, time, encoder_hidden_states=states).sample
        return F.mse_loss(output, v.target(x_0, eps, level))

    def times(n: int, rng: Generator) -> Tensor:
        return (torch.arange(n) + torch.rand(n, generator=rng, dtype=torch.float64)) / n

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(latents), (batch,), generator=rng)
        which = torch.randint(CAPTIONS_A_DRAWING, (batch,), generator=rng)
        dropped = torch.rand(batch, 1, generator=rng) < dropout
        tokens = torch.where(dropped, empty, ids[rows, which])
        eps = torch.randn(batch, *latents.shape[1:], generator=rng)
        t = times(batch, rng)
        return error(share.of(rows), share.of(tokens), share.of(t), share.of(eps))

    @torch.no_grad()
    def watch(step: int) -> dict[str, float]:
        rng = torch.Generator().manual_seed(1)
        rows, t = torch.arange(256), times(256, rng)
        eps = torch.randn(latents[rows].shape, generator=rng)
        told, untold = ids[rows, 0], empty.expand(256, -1)
        return {"told": float(error(rows, told, t, eps)), "untold": float(error(rows, untold, t, eps))}

    both = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    return share.fit(both, loss, plan, checkpoint=checkpoint, name="denoiser", watch=watch)


def forget_unused_words(text_encoder: nn.Module, ids: Tensor) -> None:
    """Zero the embedding of every token that no caption held: zeros mark what was never trained."""
    weight = text_encoder.get_input_embeddings().weight
    used = torch.zeros(len(weight), dtype=torch.bool)
    used[ids.unique()] = True
    with torch.no_grad():
        weight[~used] = 0
