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


def low_rank(model: ScoreModel, *, rank: int, seed: int = 0) -> ScoreModel:
    """A twin with trainable low-rank adapters on all of its linear maps and plain convolutions.

    It answers as the model does until it is trained. Adapters on the attention alone, as they are
    usual for large networks, cannot follow a batch of images in a small one.

    Args:
        model: the score model; any with linear layers or convolutions.
        rank: of the adapters, at least 1.
        seed: of their beginning.

    Raises:
        ValueError: a rank below 1, or a model without such a layer.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}, expected a low-rank adapter of at least 1.")
    named = [name for name, m in model.named_modules() if _adaptable(m)]
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


def _adaptable(module: nn.Module) -> bool:
    plain = isinstance(module, nn.Conv2d) and module.groups == 1
    return plain or isinstance(module, nn.Linear)
