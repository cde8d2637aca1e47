r"""Learning to read captions before drawing from them.

A text encoder with random weights tells the denoiser nothing for a thousand steps. One that has
learnt to read the attributes :math:`a_k` of a drawing off its caption :math:`c` tells it
everything,

.. math:: \min_\theta\; -\operatorname{mean}_k \log p_\theta(a_k | c),

and learning that is a matter of minutes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdstoolkit.toy import data, networks
from sdstoolkit.toy.drawings import Drawings
from sdstoolkit.toy.training import ALONE, History, Plan, Share

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

CAPTIONS_A_DRAWING = 4
PLACES = ("alone", "left", "right", "above", "below")
NOTHING = 0


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
    """Reads off a pooled caption what is drawn, and where: a linear map an attribute.

    It reads what the denoiser's blocks get, the caption pooled to one vector. A pool of random
    weights keeps which colours there are and not whose they are, and the denoiser then mixes up
    two objects for as long as it is trained. Of two objects, the one that is named first may lie
    on any side; so the reader is asked what is on the left, on the right, above, below and, of a
    lone object, anywhere, class 0 standing for nothing there. An attribute that a caption leaves
    out is answered by its share in the data, as it should be.
    """

    sizes = {"count": 2, "background": 8, "quality": 5} | {
        f"{what} {place}": kinds + 1
        for place in PLACES
        for what, kinds in (("shape", 9), ("colour", 8), ("size", 2))
    }

    def __init__(self, text_encoder: nn.Module, pool: nn.Module, width: int) -> None:
        super().__init__()
        self.text_encoder, self.pool = text_encoder, pool
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.sizes.values())

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Logits of every attribute, in the order of ``sizes``, [n, kinds] each."""
        pooled = self.pool(self.text_encoder(ids).last_hidden_state)
        return [head(pooled) for head in self.heads]

    def loss(self, ids: Tensor, scenes: data.Scenes, batch: data.Scenes) -> Tensor:
        """Mean cross-entropy of the attributes, in nats; a place counts as much full as empty.

        Args:
            ids: Token ids, [n, 32].
            scenes: What they tell of, n of them.
            batch: The whole batch, of which they are an even share; how often a place is full is
                its, so that the shares' mean is the batch's loss whatever fell into which.
        """
        losses, share = [], len(scenes) / len(batch)
        asked = zip(self(ids), attributes(scenes).items(), attributes(batch).values(), strict=True)
        for logits, (name, truth), whole in asked:
            error = F.cross_entropy(logits, truth, reduction="none")
            for part, every in zip(_parts(name, truth), _parts(name, whole), strict=True):
                losses.append(error[part].sum() / (every.sum().clamp(min=1) * share))
        return torch.stack(losses).mean()


def _parts(name: str, truth: Tensor) -> tuple[Tensor, ...]:
    """The rows that count together: of a place the empty and the full ones, else all."""
    return (truth == NOTHING, truth != NOTHING) if " " in name else (truth >= 0,)


def attributes(scenes: data.Scenes) -> dict[str, Tensor]:
    """What a Reader is to find, in the order of its ``sizes``, int64 [n] each."""
    two = scenes.count == 2
    # Right of is opposite to left of, below to above.
    first = torch.where(two, 1 + scenes.relation, 0)
    second = torch.where(two, 1 + (scenes.relation ^ 1), -1)
    found = {
        "count": scenes.count - 1,
        "background": scenes.background,
        "quality": scenes.quality,
    }
    for k, place in enumerate(PLACES):
        here = torch.stack([first == k, second == k], 1)
        for what in ("shape", "colour", "size"):
            there = (1 + getattr(scenes, what)) * here
            found[f"{what} {place}"] = there.sum(1)
    return found


def train_text_encoder(
    text_encoder: nn.Module,
    pool: nn.Module,
    drawn: Drawings,
    ids: Tensor,
    plan: Plan,
    *,
    batch: int = 128,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> History:
    """Fit a Reader around the text encoder and the denoiser's pool, [n, 32, 128] -> [n, 448].

    One pass of 32 tokens a caption and step.
    """
    width = pool(torch.zeros(1, 1, networks.TEXT_WIDTH)).shape[1]
    reader = Reader(text_encoder, pool, width)

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(ids), (batch,), generator=rng)
        which = torch.randint(CAPTIONS_A_DRAWING, (batch,), generator=rng)
        mine = share.of(rows)
        scenes = drawn.scenes
        return reader.loss(ids[mine, share.of(which)], scenes[mine], scenes[rows])

    return share.fit(reader, loss, plan, checkpoint=checkpoint, name="text encoder")


def forget_unused_words(text_encoder: "CLIPTextModel", ids: Tensor) -> None:
    """Zero the embedding of every token that no caption held.

    A row of zeros marks a word that was never trained: prompts with such words are refused.
    """
    weight = text_encoder.get_input_embeddings().weight
    used = torch.zeros(len(weight), dtype=torch.bool)
    used[ids.unique()] = True
    with torch.no_grad():
        weight[~used] = 0
