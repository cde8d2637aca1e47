"""What verbs tell a model besides a prompt, and how they open it, through the command itself."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import tiny_families
import torch
from families import opened
from safetensors.torch import save_file
from test_additions import lora, tiny_autoencoder

import sdstoolkit
from sdstoolkit import ProbabilityFlow, _plugins, cli
from sdstoolkit.adapters import LoRA, Token, load
from sdstoolkit.adapters._checkpoint import quiet
from sdstoolkit.guidance import ClassifierFree
from sdstoolkit.images import read_image, write_image
from sdstoolkit.pipelines._loading import MEMORY, Loading
from sdstoolkit.prior import Told
from sdstoolkit.solvers import Euler

PROMPT = "a red heart"
EMBEDDING = {
    "image_embeds": torch.linspace(-1, 1, 32)[None],
    "negative_image_embeds": torch.linspace(1, 0, 32)[None],
}
GIVEN = {  # family -> prompt, options, and what the same is in Python: told, and told for guidance
    "dit": ("", ("--label", "207"), lambda p: (p.condition(label=207), p.condition())),
    "instruct_pix2pix": (
        PROMPT,
        ("--image", "image.png"),
        lambda p: tuple(p.condition(t, image=read_image("image.png")) for t in (PROMPT, "")),
    ),
    "inpaint": (
        PROMPT,
        ("--image", "image.png", "--mask", "mask.png"),
        lambda p: tuple(
            p.condition(t, image=read_image("image.png"), mask=read_image("mask.png", mode="L"))
            for t in (PROMPT, "")
        ),
    ),
    "controlnet": (
        PROMPT,
        ("--hint", "image.png", "--hint-strength", "0.5"),
        lambda p: tuple(
            p.condition(t, hint=read_image("image.png"), strength=0.5) for t in (PROMPT, "")
        ),
    ),
    "kandinsky_2_2": (
        "",
        ("--embedding", "embedding.safetensors"),
        lambda p: tuple(p.condition(embedding=EMBEDDING[k]) for k in EMBEDDING),
    ),
    "flux_dev": (
        PROMPT,
        ("--guidance", "2"),
        lambda p: tuple(p.condition(t, guidance=2.0) for t in (PROMPT, "")),
    ),
}


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image("image.png", torch.rand(1, 3, 16, 16))
    write_image("wide.png", torch.rand(1, 3, 16, 24))
    write_image("mask.png", (torch.rand(1, 1, 16, 16) > 0.5).float())
    save_file(EMBEDDING, "embedding.safetensors")
    save_file({"image_embeds": EMBEDDING["image_embeds"]}, "half.safetensors")


def sds(capsys, verb, name, *words):
    """Exit code and both streams, on a tiny model of a family."""
    capsys.readouterr()
    model = str(tiny_families.folder(name))
    code = cli.main([verb, *words, "--model", model, "--out", "out"])
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, verb, name, *words):
    """The one line that is said, with nothing written."""
    code, out, err = sds(capsys, verb, name, *words)
    assert code == 2 and out == "" and err.startswith("sds: ") and err.count("\n") == 1, err
    assert not Path("out").exists()
    return err


def manifest():
    return json.loads(Path("out/manifest.json").read_text())["options"]


@pytest.mark.parametrize("name", GIVEN)
def test_a_sample_is_told_what_python_tells(capsys, name):
    prompt, words, told = GIVEN[name]
    steps = ("--steps", "1", "--solver", "euler", "--scale", "2")
    code, _, err = sds(capsys, "sample", name, prompt, *words, *steps)
    assert code == 0, err
    prior = opened(name)
    condition, null = told(prior)
    model = ClassifierFree(prior.score, null, scale=2.0)
    flow = ProbabilityFlow(model, steps=1, solver=Euler())
    right = prior.codec.decode(flow.sample(1, condition)).clamp(0, 1)
    assert (read_image("out/000000.png") - right).abs().max() <= 0.51 / 255
    kept = manifest()
    for flag, value in zip(words[::2], words[1::2], strict=True):
        kept_as = str(kept[flag[2:].replace("-", "_")])
        assert kept_as.startswith(value) or float(kept_as) == float(value)
        assert "." not in value or value[0] == "0" or "sha256" in kept_as
    again = sds(capsys, "sample", name, prompt, *words, *steps)
    assert again[0] == 0 and "made before" in again[1]
    assert sds(capsys, "sample", name, "--steps", "1", *words)[0] == 2  # other options, a folder


@pytest.mark.parametrize(
    ("name", "loss"),
    [("dit", "sds"), ("instruct_pix2pix", "csd"), ("controlnet", "sds"), ("kandinsky_2_2", "sds")],
)
def test_a_loss_is_told_it_too(capsys, name, loss):
    """Those that ask for a null prompt of their own among them."""
    prompt, words, _ = GIVEN[name]
    common = ("--steps", "2", "--loss", loss, "--canvas", "latents")
    code, _, err = sds(capsys, "optimize", name, prompt, *words, *common)
    assert code == 0, err
    first = read_image("out/000000.png")
    assert first.shape == (1, 3, 16, 16)
    Path("out").rename("before")
    write_image("image.png", torch.rand(1, 3, 16, 16))
    save_file({k: v.flip(1) for k, v in EMBEDDING.items()}, "embedding.safetensors")
    other = tuple("3" if word == "207" else word for word in words)
    assert sds(capsys, "optimize", name, prompt, *other, *common)[0] == 0
    assert not torch.equal(read_image("out/000000.png"), first)


def test_an_edit_tells_its_own_image_and_mask(capsys):
    edit = ("image.png", "--to", PROMPT, "--method", "sdedit", "--steps", "2")
    code, _, err = sds(capsys, "edit", "inpaint", *edit, "--mask", "mask.png")
    assert code == 0, err
    Path("out").rename("inpainted")
    assert "takes a prompt, an image and a mask; give --mask" in refused(
        capsys, "edit", "inpaint", *edit
    )
    code, _, err = sds(
        capsys, "edit", "dit", "image.png", "--label", "1", "--to-label", "2", *edit[3:]
    )
    assert code == 0, err
    Path("out").rename("labelled")
    code, _, err = sds(capsys, "invert", "instruct_pix2pix", "image.png", "--steps", "2")
    assert code == 0, err


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("dit", ("--hint", "image.png"), "conditioned on hint; it takes a label"),
        ("dit", (PROMPT, "--label", "3"), "conditioned on prompt; it takes a label"),
        ("dit", ("--label", "1001"), "label is 1001, expected whole numbers from 0 to 999"),
        ("dit", ("--label", "-1"), "--label is -1, expected 0 or more"),
        ("sdxl", (PROMPT, "--label", "3"), "conditioned on label; it takes a prompt"),
        ("sdxl", (PROMPT, "--image", "image.png"), "conditioned on image"),
        ("sdxl", (PROMPT, "--guidance", "3"), "conditioned on guidance"),
        ("instruct_pix2pix", (PROMPT,), "takes a prompt and an image; give --image"),
        ("instruct_pix2pix", (PROMPT, "--image", "no.png"), "there is no file 'no.png'"),
        ("instruct_pix2pix", (PROMPT, "--image", "wide.png"), "24 x 16 pixels, expected 16 x 16"),
        ("inpaint", (PROMPT,), "give --image and --mask"),
        ("inpaint", (PROMPT, "--mask", "mask.png"), "an image and a mask; give --image"),
        ("inpaint", (PROMPT, "--image", "image.png"), "give --mask"),
        ("controlnet", (PROMPT,), "takes a prompt and a hint; give --hint"),
        ("controlnet", (PROMPT, "--hint-strength", "nan"), "--hint-strength is nan"),
        ("kandinsky_2_2", (), "takes an image embedding; give --embedding"),
        ("kandinsky_2_2", ("--embedding", "image.png"), "cannot be read"),
        ("kandinsky_2_2", ("--embedding", "half.safetensors"), "expected negative_image_embeds"),
        ("dit", ("--loras", "no.safetensors"), "takes no LoRAs"),
        ("sdxl", (PROMPT, "--loras", "image.png=1"), "is a .png file, not safetensors"),
        ("sdxl", (PROMPT, "--loras", "a.safetensors=inf"), "scale of the LoRA"),
        ("sdxl", (PROMPT, "--tokens", "no.safetensors=w"), "no textual inversion"),
        ("sdxl", (PROMPT, "--autoencoder", "nowhere"), "There is no autoencoder 'nowhere'"),
        ("sdxl", (PROMPT, "--revision", "main"), "revision='main' is of a hub name"),
        ("sdxl", (PROMPT, "--layers-on-cpu", "--device", "cpu"), "given for the CPU"),
        ("deepfloyd_if", (PROMPT, "--checkpointing"), "this model has no autoencoder"),
    ],
)
def test_what_does_not_fit_is_one_line(capsys, name, words, said):
    assert said in refused(capsys, "sample", name, *words)


def test_an_image_of_another_size_is_cropped_if_asked_for(capsys):
    words = (PROMPT, "--image", "wide.png", "--fit", "crop", "--steps", "1")
    code, _, err = sds(capsys, "sample", "instruct_pix2pix", *words)
    assert code == 0 and "24 x 16 pixels became 16 x 16 (crop)" in err
    assert manifest()["fit"] == "crop"


def test_what_is_added_to_a_model_decides_and_where_it_lies_does_not(capsys, tmp_path):
    from families import pipeline

    with quiet():
        pipe = type(pipeline("sdxl")).from_pretrained(tiny_families.folder("sdxl"))
        (file,) = lora(pipe, "unet", tmp_path / "lora").glob("*.safetensors")
    save_file({"clip_l": torch.randn(1, 16), "clip_g": torch.randn(1, 32)}, "thing.safetensors")
    tiny_autoencoder(tmp_path / "tiny")
    words = ("a red sks", "--steps", "1", "--loras", f"{file}=0.5", "--tokens")
    words += ("thing.safetensors=sks", "--autoencoder", "tiny", "--dtype", "float64")
    memory = ("--channels-last", "--text-on-cpu")
    code, _, err = sds(capsys, "sample", "sdxl", *words)
    assert code == 0, err
    record = json.loads(Path("out/manifest.json").read_text())
    added = ["LoRA pytorch_lora_weights.safetensors at 0.5", "word sks of thing.safetensors"]
    assert record["runs"][0]["model"]["additions"] == [*added, "autoencoder tiny"]
    assert record["runs"][0]["device"] == "cpu"
    kept = record["options"]
    assert kept["dtype"] == "float64" and kept["autoencoder"] == "tiny"
    assert "sha256" in kept["loras"][0] and kept["loras"][0].endswith("=0.5")
    assert not {"channels_last", "text_on_cpu", "device", "label", "variant"} & set(kept)
    again = sds(capsys, "sample", "sdxl", *words, *memory)  # memory does not change an image
    assert again[0] == 0 and "made before" in again[1]
    moved = file.rename(tmp_path / file.name)
    words = tuple(str(moved) + "=0.5" if word.endswith("=0.5") else word for word in words)
    assert "made before" in sds(capsys, "sample", "sdxl", *words)[1]
    capsys.readouterr()
    assert cli.main(["info", str(tiny_families.folder("sdxl")), "--loras", f"{moved}=2"]) == 0
    assert "LoRA pytorch_lora_weights.safetensors at 2" in capsys.readouterr().out


def test_every_verb_that_opens_a_model_opens_it_alike():
    """And what a prompt cannot say is an option wherever there is a prompt."""
    verbs = {
        v: _plugins.find(cli.VERBS, v).Options.__dataclass_fields__
        for v in _plugins.names(cli.VERBS)
    }
    loads = {v for v, fields in verbs.items() if "model" in fields and v not in ("demo", "train")}
    assert loads == {v for v, fields in verbs.items() if "loading" in fields} and len(loads) > 7
    prompts = {v for v in loads if "prompt" in verbs[v]} - {"denoise"}  # pixels take nothing else
    assert prompts == {v for v, fields in verbs.items() if "telling" in fields}


@pytest.mark.parametrize("name", [*GIVEN, "lcm", "flux_schnell", "sdxl", "score_sde_ve"])
def test_a_prior_accepts_what_it_says(name):
    """And nothing else: what is always told goes through, whatever the prompt."""
    prior = opened(name)
    values = {"label": 3, "image": torch.rand(1, 3, 16, 16), "hint": torch.rand(1, 3, 16, 16)}
    values |= {"mask": torch.ones(1, 1, 16, 16), "embedding": torch.rand(1, 32)}
    values |= {"strength": 0.5, "guidance": 2.0}
    always = {key: values[key] for key in prior.accepts}
    told = Told(prior, always)
    condition = told.condition("a" if prior.text is not None else None)
    assert set(condition) - set(prior.score.may_take) == set(prior.score.takes)
    assert told.takes == prior.takes and told.score is prior.score
    for key in set(values) - set(prior.accepts):
        with pytest.raises((ValueError, TypeError)):
            Told(prior, always | {key: values[key]}).condition()


def test_a_told_prior_frees_its_text():
    prior = opened("controlnet")
    told = Told(prior, {"hint": torch.rand(1, 3, 16, 16)})
    before = told.condition(PROMPT)
    told.drop_text()
    assert prior.text is None and told.text is None
    assert torch.equal(told.condition(PROMPT)["text"], before["text"])
    assert "hint" in told.condition()
    with pytest.raises(ValueError, match="is new and the text encoder was dropped"):
        told.condition("another")


def test_every_argument_of_load_is_an_option(monkeypatch):
    """But for the hub's connection, which has a variable of its own, and each reaches it."""
    flags = dict.fromkeys(MEMORY, True)
    kept: dict = {}
    monkeypatch.setattr(sdstoolkit, "load", lambda name, **given: kept.update(given))
    loading = Loading(
        loras=("a", "b=0.5", "b=c=-1"),
        tokens=("t=sks",),
        revision="main",
        dtype="bfloat16",
        **flags,
    )
    loading.open("model")
    assert set(kept) == {*inspect.signature(load).parameters} - {
        "name_or_path",
        "local_files_only",
    }
    assert {field.name for field in dataclasses.fields(Loading)} == set(kept)
    assert kept | flags == kept and kept["dtype"] == torch.bfloat16 and kept["variant"] is None
    assert kept["loras"] == [LoRA("a"), LoRA("b", 0.5), LoRA("b=c", -1.0)]
    assert kept["tokens"] == [Token("t", "sks")]
