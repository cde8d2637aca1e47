import pytest
import torch
from torch import Tensor, nn

from sdstoolkit.condition import Condition
from sdstoolkit.noise import VP, NoiseLevel, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Karras, Parameterization, Sample, Score, V
from sdstoolkit.score import ScoreModel, combine, each

ALL = (Epsilon(), Sample(), V(), Flow(), Score(), Karras(sigma_data=0.5))


class Network(ScoreModel):
    """A small network that is told a label; it counts the rows and notes the dtypes it sees."""

    def __init__(self, p: Parameterization | None = None, shape: tuple = (3,)) -> None:
        super().__init__()
        self.schedule, self.parameterization, self.shape = VP(), p or Epsilon(), shape
        self.first, self.last = nn.Linear(shape[-1] + 2, 16), nn.Linear(16, shape[-1])
        self.double()
        self.rows: list[int] = []
        self.seen: set[torch.dtype] = set()

    def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
        label = x_t.new_zeros(len(x_t)) if condition is None else condition["label"]
        told = torch.stack([level.t.to(x_t.dtype), label], 1)
        told = told.reshape(len(x_t), *(1,) * (x_t.ndim - 2), 2).expand(*x_t.shape[:-1], 2)
        self.rows.append(len(x_t))
        self.seen |= {x_t.dtype, label.dtype}
        assert level.t.dtype == torch.float64 and len(level.alpha) == len(x_t)
        return self.last(torch.tanh(self.first(torch.cat([x_t, told], -1))))


def label(*values: float) -> Condition:
    return Condition({"label": torch.tensor(values, dtype=torch.float64)})


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, dtype=torch.float64), torch.linspace(0.1, 0.9, n).double()


def test_a_row_is_independent_of_its_batch_mates() -> None:
    model, (x_t, t) = Network(), batch()
    together = model(x_t, t, label(0, 1, 2, 3))
    for k in range(4):
        alone = model(x_t[k : k + 1], float(t[k]), label(k))
        assert torch.allclose(alone.x_0[0], together.x_0[k], rtol=1e-13, atol=1e-14)
        assert torch.allclose(alone.eps[0], together.eps[k], rtol=1e-13, atol=1e-14)


def test_a_condition_of_one_row_is_for_all() -> None:
    model, (x_t, t) = Network(), batch()
    assert torch.equal(model(x_t, t, label(2)).eps, model(x_t, t, label(2, 2, 2, 2)).eps)
    assert model(x_t, t, None).eps.shape == x_t.shape


@pytest.mark.parametrize("p", ALL, ids=lambda p: type(p).__name__)
def test_combine_is_the_weighted_sum_of_predictions(p: Parameterization) -> None:
    model, (x_t, t) = Network(p), batch()
    conditions, weights = (label(1), label(2, 3, 4, 5), label(0)), (7.5, -2.5, -4.0)
    separate = [model(x_t, t, c) for c in conditions]
    model.rows.clear()
    mixed = combine(model, x_t, t, conditions, weights)
    assert model.rows == [12]
    for name in ("x_0", "eps", "score", "v", "flow"):
        terms = (w * getattr(s, name) for w, s in zip(weights, separate, strict=True))
        assert torch.allclose(getattr(mixed, name), sum(terms), rtol=1e-9, atol=1e-9)


def test_zero_weights_cost_nothing() -> None:
    model, (x_t, t) = Network(), batch()
    conditional = model(x_t, t, label(1))
    for weights, rows in (((1.0, 0.0), 4), ((0.0, 1.0), 4), ((2.0, -1.0), 8), ((1, 0, 0), 4)):
        model.rows.clear()
        mixed = combine(model, x_t, t, [label(1), label(0), label(5)][: len(weights)], weights)
        assert model.rows == [rows]
        assert torch.equal(mixed.eps, conditional.eps) == (weights[0] == 1)


def test_each_is_one_call() -> None:
    model, (x_t, t) = Network(V()), batch()
    separate = [model(x_t, t, c).x_0 for c in (label(1), label(2))]
    model.rows.clear()
    first, second = each(model, x_t, t, (label(1), label(2)))
    assert model.rows == [8]
    assert torch.allclose(first.x_0, separate[0]) and torch.allclose(second.x_0, separate[1])
    assert first.x_t is x_t


def test_a_bfloat16_network_under_a_float64_state() -> None:
    model, (x_t, t) = Network(), batch()
    exact = model(x_t, t, label(1))
    model.bfloat16()
    for state in (x_t, x_t.float()):
        model.seen.clear()
        found = combine(model, state, t, [label(1), label(0)], [1.5, -0.5])
        assert model.seen == {torch.bfloat16} and model.dtype == torch.bfloat16
        assert found.x_0.dtype == found.eps.dtype == found.level.alpha.dtype == state.dtype
        assert found.x_t is state and found.level.t.dtype == torch.float64
    assert torch.allclose(model(x_t, t, label(1)).eps, exact.eps, atol=0.03)
    # The outputs are summed in the state's dtype: 50 a - 49 a is a.
    guided = combine(model, x_t, t, [label(1), label(1)], [50.0, -49.0])
    assert torch.allclose(guided.eps, model(x_t, t, label(1)).eps, rtol=1e-12, atol=1e-12)


def test_a_ready_level() -> None:
    model, (x_t, t) = Network(), batch()
    level = model.level(t, x_t)
    assert model.level(level, x_t) is level
    assert torch.equal(model(x_t, level).eps, model(x_t, t).eps)
    with pytest.raises(ValueError, match="level of 4 rows"):
        model(x_t[:2], level)


def test_gradients_pass() -> None:
    model, (x_t, t) = Network(), batch()
    x_t.requires_grad_()
    (g,) = torch.autograd.grad(combine(model, x_t, t, [None, None], [2, -1]).x_0.sum(), x_t)
    assert g.isfinite().all() and (g != 0).all()
    jacobian = torch.func.jacrev(lambda x: model(x[None], 0.3).x_0[0])(x_t[0].detach())
    assert jacobian.shape == (3, 3)


def test_nothing_waits_for_the_device() -> None:
    """A tensor on the meta device has no value: to read one, as a wait would, raises."""
    model = Network(V()).to("meta")
    for t in (0.3, torch.full((4,), 0.3, dtype=torch.float64)):
        x_t = torch.zeros(4, 3, device="meta")
        found = combine(model, x_t, t, [label(1), label(0)], [7.5, -6.5])
        assert found.x_0.device.type == found.level.t.device.type == "meta"
        level = model.level(t, x_t)
        assert model(level.perturb(x_t, x_t), level, label(1)).score.shape == x_t.shape
    model.parameterization, model.schedule = Epsilon(), Rectified()
    with pytest.raises(ValueError, match="Epsilon does not determine x_0"):  # known all the same
        model.level(1.0, x_t)


def test_the_size_is_free_and_the_channels_are_not() -> None:
    model = Network(shape=(2, 4, 4))
    assert model(torch.zeros(1, 2, 8, 4), 0.5).x_0.shape == (1, 2, 8, 4)
    for shape in ((1, 3, 4, 4), (1, 2, 4), (2, 4, 4)):
        with pytest.raises(ValueError, match="this model takes \\[n, 2, 4, 4\\]"):
            model(torch.zeros(shape), 0.5)


def test_errors() -> None:
    model, (x_t, t) = Network(), batch()
    with pytest.raises(ValueError, match="2 rows was given for 4"):
        model(x_t, t, label(1, 2))
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        model(x_t, 1.5)
    with pytest.raises(ValueError, match="sum to 0.5"):
        combine(model, x_t, t, [label(1), label(0)], [1.0, -0.5])
    with pytest.raises(ValueError, match="sum to nan"):
        combine(model, x_t, t, [label(1), label(0)], [float("nan"), 0.0])
    with pytest.raises(ValueError, match="2 conditions came with 1"):
        combine(model, x_t, t, [label(1), label(0)], [1.0])
    with pytest.raises(ValueError, match="same names"):
        combine(model, x_t, t, [label(1), None], [2.0, -1.0])
    with pytest.raises(ValueError, match="All weights are zero"):
        model.mix(x_t, model.level(t, x_t), [label(1)], [0.0])
    model.schedule = Rectified()
    with pytest.raises(ValueError, match="Epsilon does not determine x_0"):
        model(x_t, 1.0)


def test_an_output_of_another_shape_is_refused() -> None:
    class Wide(Network):
        def output(self, x_t: Tensor, level: NoiseLevel, condition: Condition | None) -> Tensor:
            return x_t.repeat(1, 2)

    with pytest.raises(ValueError, match="one value for each"):
        Wide()(*batch())


def test_description() -> None:
    assert Network().describe() == {
        "name": "Network",
        "schedule": VP().describe(),
        "parameterization": {"name": "Epsilon"},
        "shape": [3],
    }
