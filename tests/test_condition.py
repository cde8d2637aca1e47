import pytest
import torch

from sdstoolkit.condition import Condition, cat, merge


def condition(rows: int = 2, tokens: int = 3) -> Condition:
    text = torch.arange(rows * tokens, dtype=torch.float32).reshape(rows, tokens)
    return Condition({"text": text, "label": torch.arange(rows)})


def test_it_is_an_immutable_mapping() -> None:
    tensors = {"text": torch.zeros(2, 3)}
    c = Condition(tensors)
    tensors["other"] = torch.zeros(1)
    assert list(c) == ["text"] and len(c) == 1 and c.rows == 2
    with pytest.raises(TypeError):
        c["text"] = torch.ones(2, 3)  # type: ignore[index]
    with pytest.raises(KeyError, match="it holds text"):
        c["label"]
    assert c.get("label") is None and {c: 1}[c] == 1 and c != Condition(c)
    assert repr(c) == "Condition(text: [2, 3])"


def test_empty() -> None:
    empty = Condition()
    assert empty.rows == 1 and not empty
    assert empty.expand(5) is empty and len(cat(empty, empty)) == 0 and len(cat()) == 0


def test_expand() -> None:
    c = condition(1)
    assert c.expand(4)["text"].shape == (4, 3) and c.expand(4)["label"].shape == (4,)
    assert c.expand(1) is c
    with pytest.raises(ValueError, match="2 rows was given for 3"):
        condition(2).expand(3)


def test_cat() -> None:
    joined = Condition.cat(condition(2), condition(1))
    assert joined.rows == 3 and torch.equal(joined["label"], torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="same names"):
        cat(condition(), Condition())
    with pytest.raises(ValueError, match="pad them"):
        cat(condition(2, tokens=3), condition(2, tokens=4))


def test_to_casts_what_is_floating() -> None:
    c = condition().to(dtype=torch.bfloat16)
    assert c["text"].dtype == torch.bfloat16 and c["label"].dtype == torch.int64
    assert condition().to("meta")["text"].device.type == "meta"


@pytest.mark.parametrize(
    "tensors",
    [{"a": torch.tensor(1.0)}, {"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": "a prompt"}],
)
def test_bad_rows(tensors: dict) -> None:
    with pytest.raises(Exception, match="row|type"):
        Condition(tensors)


def test_merge_joins_names_and_expands_single_rows() -> None:
    text, mask = Condition({"text": torch.ones(3, 2)}), Condition({"mask": torch.zeros(1, 4)})
    both = merge(text, mask)
    assert set(both) == {"text", "mask"} and both.rows == 3 and both["mask"].shape == (3, 4)
    with pytest.raises(ValueError, match="hold text; each name may come once"):
        merge(text, text)
    with pytest.raises(ValueError, match="A condition of 2 rows was given for 3"):
        merge(text, Condition({"mask": torch.zeros(2, 4)}))
