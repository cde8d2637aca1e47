"""A step of Muon is orthogonal and as large as it says; what is no matrix stays with AdamW."""

import pytest
import torch
from torch import nn

from sdstoolkit.toy.optimizer import Optimizer


class Parts(nn.Module):
    """A convolution, a bias and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 24, 3)
        self.words = nn.Embedding(8, 6)


def step(module: nn.Module, *, muon: bool) -> dict[str, torch.Tensor]:
    """What one step without decay adds to every parameter; gradients from seed 1."""
    rng = torch.Generator().manual_seed(1)
    before = {k: p.detach().clone() for k, p in module.named_parameters()}
    optimizer = Optimizer(module, lr=1.0, weight_decay=0.0, muon=muon)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=rng)
    optimizer.step(0.01)
    return {k: p.detach() - before[k] for k, p in module.named_parameters()}


def test_muon_moves_all_directions_of_a_convolution_alike() -> None:
    moved = step(Parts(), muon=True)["conv.weight"].reshape(24, 36)
    values = torch.linalg.svdvals(moved) / (0.2 * 0.01 * 36**0.5)
    # Five Newton-Schulz steps in bfloat16 take every singular value into 0.7 ... 1.2.
    assert 0.65 < values.min() and values.max() < 1.25


def test_muon_goes_down() -> None:
    """Its step and the negative gradient have a positive product, by the nuclear norm."""
    module = Parts()
    rng = torch.Generator().manual_seed(1)
    grad = torch.randn(module.conv.weight.shape, generator=rng)
    moved = step(module, muon=True)["conv.weight"]
    nuclear = torch.linalg.svdvals(grad.reshape(24, 36)).sum()
    cosine = -(moved * grad).sum() / (0.2 * 0.01 * 36**0.5 * nuclear)
    assert float(cosine) == pytest.approx(1, abs=0.15)


def test_embeddings_and_biases_move_as_under_adamw() -> None:
    torch.manual_seed(0)
    one, other = Parts(), Parts()
    other.load_state_dict(one.state_dict())
    with_muon, without = step(one, muon=True), step(other, muon=False)
    for key in ("conv.bias", "words.weight"):
        assert torch.equal(with_muon[key], without[key])
    assert not torch.allclose(with_muon["conv.weight"], without["conv.weight"], rtol=0.1)
