"""`sds invert`, `sds edit`, `sds likelihood`: what they write and resume, and what they refuse."""

import json
from pathlib import Path

import pytest
import tiny_models
import torch
from PIL import Image

from sdstoolkit import Inverted, ProbabilityFlow, cli, load
from sdstoolkit.edit import Edit, FlowEdit, PromptSwap
from sdstoolkit.images import read_image, write_image
from sdstoolkit.solvers import OBELM, Heun


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = torch.Generator().manual_seed(0)
    write_image("a.png", torch.rand(3, 16, 16, generator=rng))
    inside = torch.zeros(1, 16, 16)
    inside[:, 5:11, 5:11] = 1
    write_image("mask.png", inside)


MODEL = str(tiny_models.folder("sd_epsilon"))
PIXELS = str(tiny_models.folder("ddpm_epsilon"))
TOLD = ("--prompt", "a red heart", "--model", MODEL, "--out", "out")


def sds(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, *words: str) -> str:
    before = sorted(Path().rglob("*"))
    code, out, err = sds(capsys, *words)
    assert code == 2 and out == "" and err.startswith("sds: ") and err.count("\n") == 1, err
    assert sorted(Path().rglob("*")) == before
    return err


def manifest() -> dict:
    return json.loads(Path("out/manifest.json").read_text())


# --- invert --------------------------------------------------------------------------------------


def test_an_inversion_and_its_report(capsys):
    words = ("invert", "a.png", *TOLD, "--steps", "4", "--solver", "obelm")
    code, out, err = sds(capsys, *words)
    assert code == 0 and "latent norm, z-score" in out and "36/36" in err
    ends = (".png", "-inverted.safetensors", "-compare.png", "-report.txt", "-report.json")
    names = {f"000000{end}" for end in ends} | {"manifest.json", "results.jsonl"}
    assert {path.name for path in Path("out").iterdir()} == names
    report = json.loads(Path("out/000000-report.json").read_text())
    assert report["round_trip"][0] < 1e-12 and report["image_db"] == report["floor_db"]
    inverted = Inverted.load("out/000000-inverted.safetensors")
    prior = load(MODEL)
    back = ProbabilityFlow(prior.score, steps=4, solver=OBELM()).replay(inverted)
    decoded = prior.codec.decode(back).clamp(0, 1)
    assert (read_image("out/000000.png") - decoded).abs().max() <= 0.51 / 255
    assert manifest()["runs"][0]["weights"] == inverted.base
    assert sds(capsys, *words)[1].endswith("made before\n")
    Path("out/000000-report.json").unlink()  # what is described and missing is made again
    assert sds(capsys, *words)[0] == 0 and Path("out/000000-report.json").exists()


def test_an_image_that_changed_is_another_run(capsys):
    words = ("invert", "a.png", *TOLD, "--steps", "2", "--solver", "euler")
    assert sds(capsys, *words)[0] == 0
    Path("sub").mkdir()
    Path("a.png").rename("sub/a.png")
    assert sds(capsys, "invert", "sub/a.png", *words[2:])[0] == 0  # where it lies does not matter
    write_image("sub/a.png", torch.zeros(3, 16, 16))
    assert "its image is 'a.png (sha256" in refused(capsys, "invert", "sub/a.png", *words[2:])


# --- edit ----------------------------------------------------------------------------------------


def test_an_edit_with_a_mask(capsys):
    words = ("edit", "a.png", *TOLD, "--to", "blue", "--mask", "mask.png", "--steps", "3")
    words = (*words, "--method", "sdedit", "--seeds", "0-1")
    code, out, err = sds(capsys, *words, "--keep", "pixels")
    assert code == 0 and out == "out: 2 images\n" and "6/6" in err
    ends = (".png", "-steps.png", "-compare.png", "-report.txt", "-report.json")
    names = {f"00000{k}{end}" for end in ends for k in (0, 1)} | {"manifest.json", "results.jsonl"}
    assert {path.name for path in Path("out").iterdir()} == names
    image, inside = read_image("a.png"), read_image("mask.png", mode="L")
    outside = (inside == 0).expand_as(image)
    first, second = (read_image(f"out/00000{k}.png") for k in (0, 1))
    assert torch.equal(first[outside], image[outside]) and not torch.equal(first, second)
    report = json.loads(Path("out/000000-report.json").read_text())
    assert report["outside_is_image"] and not report["outside_is_codec"]
    assert report["outside_image_db"] is None and report["image_db"] > 0
    assert manifest()["options"]["strength"] == 0.6 and manifest()["options"]["steps"] == 3
    other = words[: words.index("--out")] + ("--out", "codec") + words[words.index("--out") + 2 :]
    assert sds(capsys, *other)[0] == 0
    assert json.loads(Path("codec/000000-report.json").read_text())["outside_is_codec"]


def test_the_edit_is_the_method_s(capsys):
    words = ("edit", "a.png", *TOLD, "--to", "blue", "--scale", "1", "--steps", "4")
    assert sds(capsys, *words, "--solver", "heun", "--strength", "0.7")[0] == 0
    prior = load(MODEL)
    x_0 = prior.codec.encode(read_image("a.png"))
    edit = PromptSwap(prior.score, steps=4, strength=0.7, solver=Heun())
    right = prior.codec.decode(edit(x_0, *map(prior.condition, ("a red heart", "blue"))))
    assert (read_image("out/000000.png") - right.clamp(0, 1)).abs().max() <= 0.51 / 255


@pytest.mark.parametrize(
    "method",
    ["cds", "ddpm", "dds", "fixed_point", "ids", "negative_prompt", "null_text", "pds"],
)
def test_every_method_runs(capsys, method):
    words = ("edit", "a.png", *TOLD, "--to", "blue", "--method", method, "--steps", "2")
    assert sds(capsys, *words)[0] == 0
    assert manifest()["options"]["method"] == method


def test_a_method_brings_options_of_its_own(capsys):
    def options(method):
        out = sds(capsys, "edit", "--method", method, "--help")[1]
        return " ".join(out.replace("│", " ").split())

    assert "--draws INT How many noises to average over" in options("flow_edit")
    assert "--draws" not in options("prompt_swap") and "--solver NAME" in options("prompt_swap")
    assert "--inner INT How many steps of Adam at every step" in options("null_text")
    assert "--lr FLOAT Learning rate of Adam at the first step" in options("dds")
    assert "--identity FLOAT Weight of the pull to the image" in options("pds")
    assert "--iterations INT How many iterations for the image's noise" in options("ids")
    assert "--contrast FLOAT Weight of the term that keeps" in options("cds")
    own = cli._with_own(cli._plugins.find(cli.VERBS, "edit").Options, ["--method=flow_edit"])
    chosen = own(image="", out="", method="flow_edit", draws=3)
    assert cli.own(chosen, "method") == {"strength": 0.85, "steps": 50, "draws": 3}
    made = FlowEdit.build(load(PIXELS).score, None, scale=3.0, options=cli.own(chosen, "method"))
    assert isinstance(made, Edit) and made.draws == 3


# --- likelihood ----------------------------------------------------------------------------------


def test_images_are_weighed_and_ranked(capsys):
    grey = torch.full((3, 8, 8), 128 / 255)
    write_image("grey.png", grey)
    write_image("noise.png", torch.rand(3, 8, 8))
    words = ("likelihood", "noise.png", "grey.png", "--model", PIXELS, "--steps", "2")
    code, out, err = sds(capsys, *words, "--probes", "2", "--out", "out")
    assert code == 0 and "4/4" in err
    ranked = json.loads(Path("out/report.json").read_text())
    assert {r["name"] for r in ranked} == {"noise.png", "grey.png"}
    assert ranked[0]["bits_per_dim"] <= ranked[1]["bits_per_dim"]
    assert out.splitlines()[0] == "bits a dimension of the pixels"
    assert f"{ranked[0]['bits_per_dim']:.4f}" in out.splitlines()[1]
    one = ("likelihood", "grey.png", "--model", PIXELS, "--steps", "2", "--probes", "2")
    assert sds(capsys, *one, "--out", "one")[0] == 0
    assert json.loads(Path("one/report.json").read_text())[0]["of"] == "pixels"
    latent = ("likelihood", "a.png", "--model", MODEL, "--steps", "1", "--probes", "2")
    assert "bits a dimension of the latent" in sds(capsys, *latent, "--out", "latent")[1]


# --- what is refused -----------------------------------------------------------------------------


def bad(name):
    rng = torch.Generator().manual_seed(1)
    k = (torch.rand(16, 16, 4, generator=rng) * 255).byte().numpy()
    sixteen = (torch.rand(16, 16, generator=rng) * 65535).to(torch.int32).numpy().astype("uint16")
    pictures = {
        "alpha.png": lambda: Image.fromarray(k, "RGBA"),
        "cmyk.jpg": lambda: Image.fromarray(k, "CMYK"),
        "sixteen.png": lambda: Image.fromarray(sixteen),
        "grey.png": lambda: Image.fromarray(k[..., 0]),
    }
    pictures[name]().save(name)
    return name


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("alpha.png", "transparency"),
        ("cmyk.jpg", "mode CMYK"),
        ("sixteen.png", "16 bits a channel"),
        ("grey.png", "mode L, expected RGB"),
    ],
)
def test_images_that_are_converted_only_when_asked(capsys, name, match):
    words = ("invert", bad(name), *TOLD, "--steps", "1", "--solver", "euler")
    assert match in refused(capsys, *words)
    assert sds(capsys, *words, "--convert")[0] == 0


def test_palettes_and_camera_orientations_are_read_as_they_look(capsys):
    colours = Image.open("a.png").quantize(64)
    colours.save("palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("a.png").save("turned.png", exif=exif)
    words = ("--model", MODEL, "--to", "blue", "--steps", "1", "--method", "sdedit", "--out")
    for name in ("palette", "turned"):
        assert sds(capsys, "edit", f"{name}.png", *words, name)[0] == 0


def test_sizes(capsys):
    write_image("wide.png", torch.rand(3, 20, 40))
    write_image("dot.png", torch.rand(3, 1, 1))
    words = (*TOLD, "--steps", "1", "--solver", "euler")
    assert "40 x 20 pixels, expected 16 x 16" in refused(capsys, "invert", "wide.png", *words)
    assert "1 x 1 pixels, expected 16 x 16" in refused(capsys, "invert", "dot.png", *words)
    for name, how in (("wide", "crop"), ("wide", "pad"), ("dot", "crop")):
        out = f"{name}-{how}"
        code, _, err = sds(
            capsys, "invert", f"{name}.png", *words[:-5], out, *words[-4:], "--fit", how
        )
        assert code == 0 and f"became 16 x 16 ({how})" in err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("invert", "none.png"), "there is no file 'none.png'"),
        (("invert", "a.png", "--steps", "0"), "--steps is 0"),
        (("invert", "a.png", "--strength", "1.5"), "--strength is 1.5"),
        (("invert", "a.png", "--solver", "none"), "choose one of"),
        (("edit", "a.png", "--to", "blue", "--method", "none"), "choose one of"),
        (("edit", "a.png", "--to", "blue", "--strength", "2"), "strength = 2.0 is not in (0, 1]"),
        (("edit", "a.png", "--to", "blue", "--solver", "none"), "choose one of"),
        (("edit", "a.png", "--to", "blue", "--mask", "wide.png"), "the mask 'wide.png' has 40 x"),
        (("edit", "a.png", "--to", "blue", "--mask", "black.png"), "black: there is nothing to"),
        (("edit", "a.png", "--to", "blue", "--mask", "none.png"), "there is no file 'none.png'"),
        (
            ("edit", "a.png", "--to", "blue", "--method", "null_text", "--scale", "1"),
            "scale = 1 leaves",
        ),
        (("edit", "a.png", "--to", "blue", "--method", "dds", "--lr", "0"), "lr is 0.0, expected"),
        (("edit", "a.png", "--to", "blue", "--method", "pds", "--stride", "2"), "stride is 2.0"),
        (
            ("edit", "a.png", "--to", "blue", "--method", "ids", "--iterations", "-1"),
            "iterations is -1",
        ),
        (
            ("edit", "a.png", "--to", "blue", "--method", "cds", "--contrast", "-1"),
            "contrast is -1.0",
        ),
        (("likelihood", "a.png", "--probes", "1"), "--probes is 1"),
    ],
)
def test_wrong_input(capsys, words, match):
    write_image("wide.png", torch.rand(3, 20, 40))
    write_image("black.png", torch.zeros(1, 16, 16))
    assert match in refused(capsys, *words, *TOLD)


def test_a_model_without_words_edits_by_noise_alone(capsys):
    write_image("p.png", torch.rand(3, 8, 8))
    words = ("edit", "p.png", "--model", PIXELS, "--steps", "2", "--method", "sdedit")
    assert sds(capsys, *words, "--out", "out")[0] == 0
    assert "cannot be conditioned on prompt" in refused(capsys, *words, "--to", "a", "--out", "b")
    assert "one or more" in refused(capsys, "likelihood", "--model", PIXELS, "--out", "c")
