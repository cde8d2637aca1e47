"""`sds models`, `sds info`, the page of families, and the costs that they tell."""

import math
from pathlib import Path

import pytest
import tiny_families
import torch
from families import opened

from sdstoolkit import inspection, load
from sdstoolkit.adapters import catalogue
from sdstoolkit.adapters._table import markdown
from sdstoolkit.cli import main
from sdstoolkit.images import write_image

ROOT = Path(__file__).parent.parent


def test_the_page_of_families_is_made_from_the_adapters() -> None:
    assert (ROOT / "docs" / "families.md").read_text(encoding="utf-8") == markdown()


def test_every_family_says_what_it_is() -> None:
    import diffusers

    from sdstoolkit.toy.score_network import NETWORKS

    opened_by = [pipeline for family in catalogue() for pipeline in family.pipelines]
    assert len(opened_by) == len(set(opened_by)) >= 24
    for family in catalogue():
        assert family.title and family.takes and "|" not in family.title
        for pipeline in family.pipelines:
            assert pipeline in NETWORKS or hasattr(diffusers, pipeline), pipeline


def test_sds_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert "bundled: shapes" in told
    for family in catalogue():
        assert family.name in told and family.title in told
    assert main(["models", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown()


def test_a_family_that_lacks_something_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdstoolkit.adapters.dit.NEEDS", ("no_such_module",), raising=False)
    main(["models"])
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("dit "))
    assert "needs no_such_module" in line


def test_sds_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, plot = tmp_path / "image.png", tmp_path / "schedule.png"
    write_image(image, torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    folder = str(tiny_families.folder("sd3"))
    assert main(["info", folder, "--image", str(image), "--plot", str(plot)]) == 0
    told = capsys.readouterr().out
    for words in (
        "StableDiffusion3Score, takes a prompt",
        "parameterisation  Flow",
        "schedule          Rectified",
        "t = 1 (noise)   alpha 0  sigma 1",
        "16 x 16, or any multiples of 4; x_0 is [4, 8, 8]",
        "shift             3.0",
        "dB on the image",
        "one step of SDS   2 rows, 1 encoded",
    ):
        assert words in told, words
    assert plot.stat().st_size > 1000
    assert main(["info", str(tmp_path / "absent")]) == 2
    assert "there is no model" in capsys.readouterr().err.lower()


def test_weights_are_counted() -> None:
    prior = opened("sdxl", dtype=torch.float16)
    parts = {part.part: part for part in inspection.weights(prior)}
    assert set(parts) == {"network", "text encoder", "autoencoder"}
    assert parts["network"].parameters == sum(p.numel() for p in prior.score.parameters())
    assert parts["network"].bytes == 2 * parts["network"].parameters
    assert parts["autoencoder"].bytes == 4 * parts["autoencoder"].parameters
    assert parts["autoencoder"].dtypes == ("float32",)


def test_operations_are_counted() -> None:
    """They are those of the real tensors, in proportion to the rows; the model stays as it is."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    prior = opened("dit")
    null = prior.condition()
    alone = inspection.cost(prior, [null], size=(16, 16))
    guided = inspection.cost(prior, [null, prior.condition(label=3)], size=(16, 16))
    four = inspection.cost(prior, [null], size=(16, 16), n=4)
    assert (alone.rows, guided.rows, four.rows) == (1, 2, 4)
    assert four.operations == pytest.approx(4 * alone.operations, rel=1e-3)
    assert alone.operations < guided.operations < 2 * alone.operations
    assert prior.device.type == "cpu"
    counter = FlopCounterMode(display=False)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    with counter, sdpa_kernel(SDPBackend.MATH):
        x_0 = prior.codec.encode(image)
        with torch.no_grad():
            prior.score(x_0, 0.5, null)
        x_0.sum().backward()
    assert alone.operations == counter.get_total_flops()


def test_what_the_encoder_keeps_shrinks_with_checkpointing() -> None:
    plain, frugal = opened("sdxl"), opened("sdxl", checkpointing=True)
    costs = [
        inspection.cost(prior, [prior.condition()] * 2, size=(16, 16)) for prior in (plain, frugal)
    ]
    assert costs[1].kept < 0.5 * costs[0].kept
    with pytest.raises(ValueError, match="must be multiples of 2"):
        inspection.cost(plain, [plain.condition()], size=(15, 16))


def test_reconstruction_is_in_decibels() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert inspection.reconstruction(opened("deepfloyd_if"), image) > 100
    shapes = load("shapes")
    image = torch.full((1, 3, 64, 64), 0.5)
    floor = inspection.reconstruction(shapes, image)
    back = shapes.codec.decode(shapes.codec.encode(image))
    assert floor == pytest.approx(
        -10 * math.log10(float((back - image).square().mean())), rel=1e-4
    )
