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

    def loss(self, ids: Tensor, scenes: data.Scenes, pairs: float) -> Tensor:
        """Mean cross-entropy of the attributes, in nats.

        Args:
            ids: Token ids, [n, 32].
            scenes: What they tell of, n of them.
            pairs: How many of them are of two objects; of a part of a batch its even share of the
                batch's, so that the parts' mean is the batch's whatever fell into which.
        """
        states = self.text_encoder(ids).last_hidden_state
        answers = self.attention(self.queries.expand(len(ids), -1, -1), states, states)[0]
        truth = [scenes.count - 1, scenes.background, scenes.quality, scenes.relation]
        for k in range(2):
            truth += [scenes.shape[:, k], scenes.colour[:, k], scenes.size[:, k]]
        pair = scenes.count == 2
        always = torch.ones_like(pair)
        counted = [always] * 3 + [pair] + [always] * 3 + [pair] * 3
        n = [len(ids)] * 3 + [pairs] + [len(ids)] * 3 + [pairs] * 3
        losses = [
            F.cross_entropy(head(answers[:, k]), truth[k], reduction="none")[counted[k]].sum()
            / n[k]
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
    """Fit a Reader around the text encoder. One pass of 32 tokens a caption and step."""
    reader = Reader(text_encoder)

    def loss(step: int, rng: Generator) -> Tensor:
        rows = torch.randint(len(ids), (batch,), generator=rng)
        which = torch.randint(CAPTIONS_A_DRAWING, (batch,), generator=rng)
        mine = share.of(rows)
        pairs = int((drawn.scenes.count[rows] == 2).sum()) * len(mine) / batch
        return reader.loss(ids[mine, share.of(which)], drawn.scenes[mine], pairs)

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
