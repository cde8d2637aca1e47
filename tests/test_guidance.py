"""Classifier-free guidance against the formula, on models whose scores are exact."""

import pytest
import torch
from problems_distillation import Gaussian

from sdstoolkit.condition import Condition
from sdstoolkit.guidance import ClassifierFree
from sdstoolkit.noise import VE, VP, Rectified
from sdstoolkit.prediction import Epsilon, Flow, Karras, Sample, V
from sdstoolkit.score import ScoreModel, combine

T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def about(*m, s=0.5):
    m = torch.tensor(m, dtype=torch.float64)[:, None]
    return Condition({"m": m, "s": torch.full_like(m, s)})


def states(n=3):
    x = torch.linspace(-2, 2, 4 * n, dtype=torch.float64)
    return x.reshape(n, 1, 2, 2)


@pytest.mark.parametrize("scale", [-6.5, 0.3, 3.0, 101.0])
@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    [(VP(), Epsilon()), (VP(), V()), (VP(), Sample()), (Rectified(), Flow())]
    + [(VE(sigma_min=0.01, sigma_max=50.0), Karras(0.5))],
)
def test_it_is_the_formula_in_every_parameterisation(schedule, parameterization, scale):
    model = Gaussian(schedule, parameterization)
    wanted, null = about(1.0), about(-0.4, s=1.0)
    guided = ClassifierFree(model, null, scale=scale)(states(), T, wanted)
    c, n = model(states(), T, wanted).eps, model(states(), T, null).eps
    torch.testing.assert_close(guided.eps, n + scale * (c - n), rtol=1e-11, atol=1e-10)
    both = combine(model, states(), T, [wanted, null], [scale, 1 - scale])
    torch.testing.assert_close(guided.x_0, both.x_0, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 3), (0.0, 3), (2.0, 6), (-1.0, 6)])
def test_one_call_and_no_row_without_a_weight(scale, rows):
    model = Gaussian()
    wanted, null = about(1.0), about(-0.4)
    prediction = ClassifierFree(model, null, scale=scale)(states(), T, wanted)
    assert model.rows == [rows]
    if scale in (0, 1):
        plain = model(states(), T, wanted if scale == 1 else null)
        assert torch.equal(prediction.eps, plain.eps)


def test_a_condition_has_one_row_or_as_many_as_the_batch():
    model = Gaussian()
    guided = ClassifierFree(model, about(0.0, 0.1, 0.2), scale=4.0)
    prediction = guided(states(), T, about(1.0))
    for i, m in enumerate((0.0, 0.1, 0.2)):
        alone = ClassifierFree(model, about(m), scale=4.0)(states()[i : i + 1], T[i], about(1.0))
        assert torch.equal(prediction.eps[i], alone.eps[0])
    with pytest.raises(ValueError, match="rows"):
        ClassifierFree(model, about(0.0, 0.1), scale=4.0)(states(), T, about(1.0))


def test_a_guided_model_is_a_model_and_can_be_guided():
    model, null = Gaussian(), about(0.0)
    once = ClassifierFree(model, null, scale=6.0)
    twice = ClassifierFree(ClassifierFree(model, null, scale=2.0), null, scale=3.0)
    assert isinstance(once, ScoreModel)
    assert (once.schedule, once.parameterization, once.shape) == (
        model.schedule, model.parameterization, model.shape,
    )  # fmt: skip
    expected = once(states(), T, about(1.0)).eps
    torch.testing.assert_close(twice(states(), T, about(1.0)).eps, expected)


def test_the_network_keeps_its_dtype_and_the_state_its_own():
    model = Gaussian()
    model.register_parameter("weight", torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)))
    seen, output = [], model.output

    def watched(x_t, level, condition):
        seen.append((x_t.dtype, condition["m"].dtype))
        return output(x_t, level, condition)

    model.output = watched
    guided = ClassifierFree(model, about(0.0), scale=2.0)
    assert guided(states(), T, about(1.0)).eps.dtype == torch.float64
    assert seen == [(torch.bfloat16, torch.bfloat16)]


def test_a_manifest_records_it():
    guided = ClassifierFree(Gaussian(), about(0.0), scale=2)
    assert guided.describe()["guidance"] == {"name": "ClassifierFree", "scale": 2.0}
    assert guided.describe()["schedule"] == Gaussian().describe()["schedule"]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_is_a_number(scale):
    with pytest.raises(ValueError, match=r"^scale is (nan|inf), expected a finite number; "):
        ClassifierFree(Gaussian(), about(0.0), scale=scale)
