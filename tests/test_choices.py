"""Every loss and canvas from the command line, and `sds restore`."""

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from tiny_models import folder

from sdstoolkit import _plugins, cli
from sdstoolkit.choices import EDITING, TOGETHER, Choices
from sdstoolkit.cli import plugin
from sdstoolkit.distill import Distiller, cards
from sdstoolkit.grids import SqrtAnneal
from sdstoolkit.images import read_image, write_image
from sdstoolkit.making import law

PROMPT = "a red heart"
LOSSES = _plugins.names("sdstoolkit.distill")
CANVASES = _plugins.names("sdstoolkit.canvas")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("source.png", torch.rand(1, 3, 16, 16))


def sds(capsys, *words):
    code = cli.main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def optimise(capsys, *words):
    model = str(folder("sd_epsilon"))
    return sds(capsys, "optimize", PROMPT, "--model", model, "--steps", "2", "--out", "o", *words)


def options(out="o"):
    return json.loads(Path(out, "manifest.json").read_text())["options"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs(capsys, loss):
    words = ["--loss", loss, "--canvas", "latents"]
    words += ["--source", "source.png", "--source-prompt", "a blue heart"] * (loss in EDITING)
    words += ["--reward.colour", "1,0,0"] * (loss == "reward")
    words += ["--seeds", "0-2"] * (loss == "repulsive")
    words += ["--bridge.target", ", blue", "--bridge.source", ", red"] * (loss == "bridge")
    words += ["--negative-prompt", "blue"] * (loss == "nfsd")  # its own is long for this model
    code, out, err = optimise(capsys, *words)
    assert code == 0, err
    assert read_image("o/000000.png").shape == (1, 3, 16, 16)
    kept = options()
    others = {f.name for f in Choices.__dataclass_fields__.values()} - {loss}
    assert not any(isinstance(kept.get(name), dict) for name in others)


@pytest.mark.parametrize("canvas", CANVASES)
def test_every_canvas_runs(capsys, canvas):
    code, _, err = optimise(capsys, "--canvas", canvas, "--seeds", "3")
    assert code == 0, err
    beside = {"strokes": "svg", "palette": "palette.png"}.get(canvas)
    found = {p.name for p in Path("o").iterdir()}
    assert ({"000003.png"} | ({f"000003.{beside}"} if beside else set())) <= found
    if beside:
        again = optimise(capsys, "--canvas", canvas, "--seeds", "3")  # nothing is left to do
        assert again[0] == 0 and "made before" in again[1]


def test_options_of_their_own_decide(capsys):
    words = (
        "--loss",
        "sdi",
        "--sdi.refreshes",
        "1",
        "--canvas",
        "strokes",
        "--strokes.paths",
        "2",
    )
    assert optimise(capsys, *words, "--t-law", "dreamtime", "--weight", "ratio")[0] == 0
    kept = options()
    assert kept["sdi"] == {"refreshes": 1, "remember": False, "eta": 0.3}
    assert kept["strokes"]["paths"] == 2 and kept["t_law"] == "dreamtime"
    code, _, err = optimise(capsys, *words[:2], "--canvas", "strokes")
    assert code == 2 and "options" in err  # another run


def test_views_have_a_prompt_each(capsys):
    views = ("--view", "rotate180=a blue heart", "negative=a heart")
    code, _, err = optimise(capsys, *views)
    assert code == 0, err
    assert options()["view"] == ["rotate180=a blue heart", "negative=a heart"]
    assert options()["canvas"] == "pixels"  # latents cannot be looked at in two ways


def test_particles_are_made_together_and_their_seeds_decide(capsys):
    assert TOGETHER == tuple(
        name for name in LOSSES if cli.plugin("sdstoolkit.distill", name, Distiller).couples
    )
    words = ("--loss", "repulsive", "--canvas", "latents", "--batch-size", "1")
    assert optimise(capsys, *words, "--seeds", "0-2")[0] == 0
    assert options()["seeds"] == [0, 1, 2]
    assert optimise(capsys, *words, "--seeds", "0-3")[0] == 2


@pytest.mark.parametrize(
    ("words", "kind", "rates"),
    [
        (("sds", "latents"), torch.optim.Adam, (0.1, 0.0)),
        (("vsd", "latents"), torch.optim.SGD, (0.05, 0.05)),
        (("csd", "latents"), torch.optim.SGD, (0.07, 0.021)),
        (("csd", "latents", "--decay", "1"), torch.optim.SGD, (0.07, 0.07)),
        (("csd", "latents", "--optimizer", "adam"), torch.optim.Adam, (0.05, 0.0)),
        (("asd", "latents"), torch.optim.Adam, (0.05, 0.0)),
        (("cfd", "latents"), torch.optim.SGD, (0.05, 0.05)),
        (("sdi", "latents"), torch.optim.SGD, (1.0, 1.0)),
        (("sdi", "pixels"), torch.optim.Adam, (0.05, 0.0)),
        (("sdi", "latents", "--optimizer", "adam"), torch.optim.Adam, (0.05, 0.0)),
        (("sdi", "latents", "--lr", "0.5"), torch.optim.SGD, (0.5, 0.5)),
        (("sds", "latents", "--optimizer", "sgd"), torch.optim.SGD, (0.05, 0.05)),
        (("sds", "latents", "--lr", "0.2", "--decay", "0.5"), torch.optim.Adam, (0.2, 0.1)),
    ],
)
def test_the_way_down_suits_the_loss_on_the_canvas(words, kind, rates):
    import tyro

    from sdstoolkit import load
    from sdstoolkit.making import make_canvas, make_descent
    from sdstoolkit.pipelines.optimize import Options

    loss, canvas, *rest = words
    given = [PROMPT, "--out", "o", "--loss", loss, "--canvas", canvas, *rest]
    options = tyro.cli(Options, args=given)
    made = make_canvas(options, load(folder("sd_epsilon")), (0,), None)
    how = make_descent(options, made)
    first = pytest.approx(rates[0] if canvas == "latents" else made.lr)
    assert how["lr"](0.0) == first and how["lr"](1.0) == pytest.approx(rates[1])
    descent = how["optimizer"]
    assert (descent is None) == (kind is torch.optim.Adam)
    if descent is not None:
        (group,) = descent(list(made.parameters())).param_groups
        assert group["lr"] == first and isinstance(descent(list(made.parameters())), kind)


def test_a_card_says_what_an_option_left_open_is(capsys):
    card = cards()["rfds"]
    assert (card.law, card.weight) == ("sqrt", "alpha-sigma2")
    assert optimise(capsys, "--loss", "rfds", "--out", "left")[0] == 0
    said = ("--t-law", card.law, "--weight", card.weight, "--scale", str(card.scale))
    assert optimise(capsys, "--loss", "rfds", "--out", "said", *said)[0] == 0
    assert torch.equal(read_image("left/000000.png"), read_image("said/000000.png"))


def test_other_ends_of_the_times_leave_a_loss_its_law(capsys):
    own = {name: signature(plugin("sdstoolkit.distill", name, Distiller)) for name in cards()}
    for name, its in own.items():
        its_law = its.parameters["t_law"].default
        assert law("", its_law, None, None) == its_law, name
        moved = law("", its_law, None, 0.99)
        assert type(moved) is type(its_law) and replace(moved, t_max=its_law.t_max) == its_law
    assert law("sqrt", its_law, 0.1, None) == SqrtAnneal(t_min=0.1)
    # sdi falls along a line by itself; uniform times are another picture
    given = ("--loss", "sdi", "--t-max", "0.6")
    assert optimise(capsys, *given, "--out", "left")[0] == 0
    assert optimise(capsys, *given, "--t-law", "linear", "--out", "said")[0] == 0
    assert optimise(capsys, *given, "--t-law", "uniform", "--out", "drawn")[0] == 0
    left, said, drawn = (read_image(f"{out}/000000.png") for out in ("left", "said", "drawn"))
    assert torch.equal(left, said) and not torch.equal(left, drawn)


REFUSED = {
    "another loss's": (("--vsd.rank", "2"), "--vsd.rank has no effect without vsd"),
    "another canvas's": (("--strokes.paths", "2"), "--strokes.paths has no effect"),
    "range": (("--loss", "vsd", "--vsd.rank", "0"), "--vsd.rank is 0, expected 1 or more"),
    "no source": (("--loss", "dds"), "give one with --source"),
    "no reward": (("--loss", "reward"), "--reward.colour"),
    "no colour": (("--loss", "reward", "--reward.colour", "red"), "[0, 1]"),
    "no view": (("--view", "flip"), "LOOK=PROMPT"),
    "view": (("--view", "upside=a heart"), "rotate180"),
    "latent view": (("--view", "flip=a heart", "--canvas", "latents"), "use pixels"),
    "times": (("--t-min", "0.9", "--t-max", "0.1"), "t_min <= t_max"),
    "source": (("--source", "source.png", "--canvas", "siren"), "takes no --source; pixels does"),
    "scale": (("--loss", "asd", "--scale", "1"), "scale"),
    "few": (("--loss", "repulsive", "--seeds", "0-1"), "3 or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_in_one_line(capsys, name):
    words, said = REFUSED[name]
    code, out, err = optimise(capsys, *words)
    assert code in (1, 2) and said in err, err
    assert err.strip().count("\n") == 0 or "it/s" in err or "step" in err
    assert name != "latent view" or not Path("o").exists()


# Restoring

MEASURED = {
    "inpaint": (torch.rand(1, 3, 8, 8), ("--mask", "mask.png")),
    "blur": (torch.rand(1, 3, 8, 8), ("--blur", "0.7")),
    "downsample": (torch.rand(1, 3, 4, 4), ("--factor", "2")),
    "grey": (torch.rand(1, 1, 8, 8), ()),
}


def restore(capsys, operator, *words, kind="ddpm_epsilon"):
    measured, own = MEASURED[operator]
    write_image("measured.png", measured)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 2:5] = 1
    write_image("mask.png", mask)
    model = str(folder(kind))
    return sds(
        capsys, "restore", "measured.png", "--operator", operator, "--model", model,
        "--out", "r", "--steps", "4", *own, *words,
    )  # fmt: skip


@pytest.mark.parametrize("operator", MEASURED)
@pytest.mark.parametrize("method", ["dps", "pigdm", "mmps", "diffpir", "repaint"])
def test_every_method_restores(capsys, operator, method):
    if method == "repaint" and operator != "inpaint":
        code, _, err = restore(capsys, operator, "--method", method)
        assert code == 2 and "fills holes" in err
        return
    code, _, err = restore(capsys, operator, "--method", method, "--seeds", "0-1")
    assert code == 0, err
    image = read_image("r/000001.png")
    assert image.shape == (1, 3, 8, 8)
    if method == "repaint":
        given = read_image("measured.png")
        off = (image - given).abs()
        off[..., 2:5, 2:5] = 0
        assert off.max() <= 1.01 / 255


def test_what_cannot_be_restored_is_said(capsys):
    code, _, err = restore(capsys, "blur", "--mask", "mask.png")
    assert code == 2 and "go together" in err
    measured, _ = MEASURED["downsample"]
    write_image("small.png", measured)
    model = str(folder("ddpm_epsilon"))
    words = ("--operator", "blur", "--model", model, "--out", "r")
    code, _, err = sds(capsys, "restore", "small.png", *words)
    assert code == 2 and "resize" in err
    code, _, err = restore(capsys, "blur", kind="sd_epsilon")
    assert code == 2 and "take dps" in err
    assert not Path("r").exists()


def test_a_latent_model_restores_by_dps(capsys):
    write_image("small.png", torch.rand(1, 3, 8, 8))
    model = str(folder("sd_epsilon"))
    words = ("--operator", "downsample", "--factor", "2", "--method", "dps", "--steps", "3")
    code, _, err = sds(
        capsys, "restore", "small.png", *words, "--model", model, "--out", "r", "--prompt", PROMPT
    )
    assert code == 0, err
    assert read_image("r/000000.png").shape == (1, 3, 16, 16)
