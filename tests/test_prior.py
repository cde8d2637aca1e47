import pytest
import torch
from torch import nn

from sdstoolkit.codec import Codec
from sdstoolkit.condition import Condition
from sdstoolkit.noise import Rectified
from sdstoolkit.prediction import Flow
from sdstoolkit.prior import Prior
from sdstoolkit.toy import Mixture


class Text(nn.Module):
    """Prompts to their lengths; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.asked: list[list[str]] = []

    def forward(self, prompts: list[str]) -> Condition:
        self.asked.append(prompts)
        lengths = torch.tensor([[float(len(p))] for p in prompts])
        return Condition({"text": lengths * self.scale})


def prior(text: nn.Module | None = None) -> Prior:
    law = Mixture(torch.zeros(1, 48), std=1.0, shape=(3, 4, 4))
    return Prior(law.under(Rectified(), Flow()), Codec(), text)


def test_prompts_become_tensors_once() -> None:
    text = Text()
    p = prior(text)
    assert p.condition("abc")["text"].tolist() == [[3.0]]
    assert p.condition(["a", "abc", "a"])["text"].tolist() == [[1.0], [3.0], [1.0]]
    assert p.condition()["text"].tolist() == p.condition("")["text"].tolist() == [[0.0]]
    assert text.asked == [["abc"], ["a"], [""]]  # one by one, each once
    assert not p.condition("abc")["text"].requires_grad


def test_drop_text() -> None:
    p = prior(Text())
    p.condition("abc")
    p.drop_text()
    p.drop_text()
    assert p.text is None and not list(p.parameters())
    assert p.condition(["abc", ""])["text"].tolist() == [[3.0], [0.0]]
    with pytest.raises(ValueError, match="'new' is new and the text encoder was dropped"):
        p.condition("new")


def test_a_family_says_what_it_takes() -> None:
    assert len(prior().condition()) == 0
    with pytest.raises(ValueError, match="conditioned on prompt; it takes nothing"):
        prior().condition("abc")
    hint = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="conditioned on label, hint; it takes a prompt"):
        prior(Text()).condition("abc", label=3, hint=hint)
    with pytest.raises(ValueError, match="empty list"):
        prior(Text()).condition([])


def test_what_it_knows_of_itself() -> None:
    text = Text().train()
    p = prior(text)
    assert p.size == (4, 4) and p.schedule == Rectified()
    assert p.device.type == "cpu" and p.dtype == torch.float32
    assert not text.training and not any(v.requires_grad for v in p.parameters())
    assert p.to("meta").device.type == "meta"
