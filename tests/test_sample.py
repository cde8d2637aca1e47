"""`sds sample`: images along the flow, and what it refuses."""

import json
from pathlib import Path

import pytest
import tiny_models
import torch

from sdstoolkit import ProbabilityFlow, cli, load
from sdstoolkit.images import read_image
from sdstoolkit.solvers import Solver


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny() -> str:
    return str(tiny_models.folder("sd_epsilon"))


def sds(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code and both streams of `sds words...`, in this process."""
    capsys.readouterr()
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_solver_is_an_option():
    from sdstoolkit import _plugins

    for name in _plugins.names("sdstoolkit.solvers"):
        assert isinstance(cli.plugin("sdstoolkit.solvers", name, Solver)(), Solver)


def test_images_of_seeds(capsys, tiny):
    words = ("sample", "a red heart", "--model", tiny, "--steps", "4")
    code, out, err = sds(capsys, *words, "--seeds", "0-2", "--out", "a")
    assert code == 0 and out == "a: 3 images\n" and "12/12" in err
    names = {f"00000{seed}{end}.png" for seed in range(3) for end in ("", "-steps")}
    made = names | {"grid.png", "results.jsonl", "manifest.json"}
    assert {p.name for p in Path("a").iterdir()} == made
    record = json.loads(Path("a/manifest.json").read_text())
    assert record["runs"][0]["solver"]["name"] == "ExponentialAdams"
    assert record["runs"][0]["model"]["guidance"]["scale"] == 3.0
    assert sds(capsys, *words, "--seeds", "0-2", "--out", "a")[1].endswith("made before\n")
    assert sds(capsys, *words, "--seeds", "2,0", "--batch-size", "1", "--out", "b")[0] == 0
    for seed in (0, 2):
        a, b = (read_image(f"{out}/00000{seed}.png") for out in "ab")
        assert a.shape == (1, 3, 16, 16) and (a - b).abs().max() <= 1 / 255


def test_the_image_is_the_flow_s(capsys, tiny):
    words = ("--model", tiny, "--steps", "3", "--scale", "1", "--solver", "euler", "--out", "out")
    assert sds(capsys, "sample", "a red heart", *words)[0] == 0
    prior = load(tiny)
    from sdstoolkit.solvers import Euler

    flow = ProbabilityFlow(prior.score, steps=3, solver=Euler())
    right = prior.codec.decode(flow.sample(1, prior.condition("a red heart")))
    assert (read_image("out/000000.png") - right.clamp(0, 1)).abs().max() <= 0.51 / 255


def test_a_tiny_network_is_inverted_exactly(tiny):
    """float32 network, float64 state: a real latent model goes there and back."""
    from sdstoolkit.solvers import OBELM

    prior = load(tiny)
    image = torch.rand(2, 3, 16, 16)
    flow = ProbabilityFlow(prior.score, steps=8, solver=OBELM())
    inverted = flow.invert(prior.codec.encode(image), prior.condition("a red heart"))
    report = flow.report(inverted, codec=prior.codec, image=image, iterations=1)
    assert report.round_trip.max() < 1e-12
    assert torch.allclose(report.image_db, report.floor_db)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--steps", "0"), "--steps"),
        (("--solver", "none"), "choose one of"),
        (("--seeds", "x"), "could not be read"),
    ],
)
def test_wrong_options(capsys, tiny, words, match):
    code, out, err = sds(capsys, "sample", "a", "--model", tiny, "--out", "out", *words)
    assert code == 2 and out == "" and match in err and err.count("\n") == 1
    assert not Path("out").exists()
