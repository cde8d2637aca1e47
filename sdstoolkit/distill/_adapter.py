"""A second network for the price of its differences: a twin that shares weights, and LoRA on it.

    W' = W + (rank-r product) B A,   B = 0 at first

The twin is a module of its own whose parameters are the very tensors of the first, so that adding
an adapter to it leaves the pretrained network as it is (Hu et al., 2021,
https://arxiv.org/abs/2106.09685).
"""

import torch
from torch import nn

from sdstoolkit.score import ScoreModel, twin

__all__ = ["low_rank"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def low_rank(model: ScoreModel, *, rank: int, seed: int = 0) -> ScoreModel:
    """A twin with trainable low-rank adapters on its attention, or else on all of its linear maps.

    It answers as the model does until it is trained.

    Args:
        model: the score model; any with linear layers.
        rank: of the adapters, at least 1.
        seed: of their beginning.

    Raises:
        ValueError: a rank below 1, or a model without a linear layer.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}, expected a low-rank adapter of at least 1.")
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    named = [name for name in linear if name.endswith(ATTENTION)] or linear
    if not named:
        raise ValueError(
            f"{type(model).__name__} has no linear layer for an adapter to sit on; give fake= a "
            "score model of its own."
        )
    from peft import LoraConfig, inject_adapter_in_model

    trained = [p for p in model.parameters() if p.requires_grad]
    adapted = twin(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=named)
        inject_adapter_in_model(config, adapted)
    for p in adapted.parameters():
        if p.requires_grad:
            p.data = p.data.float() if p.dtype in (torch.bfloat16, torch.float16) else p.data
    for p in trained:  # peft freezes what it adapts, and these are the model's own
        p.requires_grad_(True)
    return adapted
