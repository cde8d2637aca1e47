"""The command as a user meets it: what it makes, what it refuses, and what it leaves behind."""

import dataclasses
import gc
import json
import shutil
import signal
import subprocess
import sys
import time
import typing
import weakref
from pathlib import Path

import pytest
import tiny_models
import torch

from sdstoolkit import _plugins, cli, distill
from sdstoolkit.canvas import Canvas
from sdstoolkit.cli import Range
from sdstoolkit.distill import Distiller
from sdstoolkit.images import read_image
from sdstoolkit.prior import Prior

HEART = "a red heart"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def tiny() -> str:
    """A random Stable Diffusion in a folder: 16x16 images in a hundredth of a second a step."""
    return str(tiny_models.folder("sd_epsilon"))


def sds(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code and both streams of `sds words...`, in this process."""
    capsys.readouterr()
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, *words: str) -> str:
    """The one line that a wrong command is answered by; nothing may have been written."""
    before = sorted(Path().rglob("*"))
    code, out, err = sds(capsys, *words)
    assert code == 2, (code, out, err)
    assert out == "" and err.startswith("sds: ") and err.count("\n") == 1, err
    assert sorted(Path().rglob("*")) == before
    return err


def manifest(out: str = "out") -> dict:
    return json.loads(Path(out, "manifest.json").read_text(encoding="utf-8"))


# --- help ------------------------------------------------------------------------------------


def test_help_names_every_verb(capsys):
    code, out, _ = sds(capsys, "--help")
    assert code == 0
    for verb in _plugins.names(cli.VERBS):
        assert f"\n  {verb} " in out
    assert "by score distillation" in out
    assert sds(capsys)[0] == 2


def test_version(capsys):
    assert sds(capsys, "--version")[1].split()[0] == "sds"


def mentions(hint: object, word: str) -> bool:
    return word in repr(hint).lower()


@pytest.mark.parametrize("verb", _plugins.names(cli.VERBS))
def test_help_of_a_verb_lists_every_option_with_default_and_range(capsys, verb):
    code, out, _ = sds(capsys, verb, "--help")
    assert code == 0 and out.startswith(f"usage: sds {verb}")
    text = " ".join(out.replace("│", " ").split())
    options = _plugins.find(cli.VERBS, verb).Options
    assert options_in_help(options, text) >= 1


def options_in_help(options: type, text: str, above: str = "--", group: object = None) -> int:
    """Look for every option of a dataclass, and of those nested in it; how many there are."""
    hints, count = typing.get_type_hints(options, include_extras=True), 0
    for field in dataclasses.fields(options):
        flag = above + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            kind = hints[field.name]
            nested = above if hasattr(kind, "__tyro_markers__") else f"{flag}."
            count += options_in_help(kind, text, nested, field.default_factory())
            continue
        count += 1
        default = field.default if group is None else getattr(group, field.name)
        if not mentions(hints[field.name], "positional"):
            assert flag in text
        if isinstance(default, int | float | str) and default not in ("", True, False):
            said = {f"default: {shown})" for shown in (default, repr(default))}
            assert any(line in text for line in said), field.name
        for mark in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(mark, Range):
                assert f": {mark}" in text, f"the help of {flag} does not say: {mark}"
    return count


def test_help_lists_the_losses_and_canvases_there_are(capsys):
    _, out, _ = sds(capsys, "optimize", "--help")
    text = " ".join(out.replace("│", " ").split())
    for package in ("sdstoolkit.distill", "sdstoolkit.canvas"):
        assert f"(one of: {', '.join(_plugins.names(package))}" in text


def test_ranges():
    assert 1 in Range(low=1) and 0 not in Range(low=1) and str(Range(low=1)) == "1 or more"
    assert 0 not in Range(above=0) and 1e-9 in Range(above=0) and str(Range(above=0)) == "above 0"
    assert str(Range(low=0, high=1)) == "0 to 1" and 1 in Range(low=0, high=1)
    assert str(Range(above=0, high=1)) == "above 0, at most 1" and 1.1 not in Range(
        above=0, high=1
    )
    for value in (float("nan"), float("inf"), -float("inf")):
        assert value not in Range()


@pytest.mark.parametrize(
    ("package", "base"), [("sdstoolkit.distill", Distiller), ("sdstoolkit.canvas", Canvas)]
)
def test_every_file_of_a_package_holds_one_plugin(package, base):
    for name in _plugins.names(package):
        assert issubclass(cli.plugin(package, name, base), base)


# --- what it makes ---------------------------------------------------------------------------


def test_a_run_leaves_images_and_how_they_came_to_be(capsys, tiny):
    words = (
        "optimize",
        HEART,
        "--model",
        tiny,
        "--out",
        "out",
        "--steps",
        "9",
        "--seeds",
        "0-1,5",
    )
    code, out, err = sds(capsys, *words, "--batch-size", "2")
    assert code == 0 and out == "out: 3 images\n"
    assert "27/27" in err and "loss=" in err
    names = {f"00000{seed}{end}.png" for seed in (0, 1, 5) for end in ("", "-steps")}
    assert {p.name for p in Path("out").iterdir()} == names | {
        "grid.png",
        "results.jsonl",
        "loss.png",
        "manifest.json",
    }
    images = [read_image(f"out/00000{seed}.png") for seed in (0, 1, 5)]
    assert all(image.shape == (1, 3, 16, 16) for image in images)
    assert not torch.equal(images[0], images[1])
    grid = read_image("out/grid.png")
    assert torch.equal(grid[..., 2:18, 2:18], images[0])
    assert torch.equal(grid[..., 20:36, 2:18], images[2])
    record = manifest()
    assert record["options"]["prompt"] == HEART and record["options"]["steps"] == 9
    assert len(record["seeds"]["5"]["loss"]) == 9 and all(record["seeds"]["5"]["loss"])
    assert record["runs"][0]["model"]["shape"] == [4, 8, 8]

    again = sds(capsys, *words)
    assert again == (0, "out: 3 images, 3 of them made before\n", "")


def test_a_seed_is_the_same_image_in_any_batch(capsys, tiny):
    words = ("optimize", HEART, "--model", tiny, "--steps", "4")
    assert sds(capsys, *words, "--seeds", "0-2", "--out", "a")[0] == 0
    assert sds(capsys, *words, "--seeds", "2,0", "--batch-size", "1", "--out", "b")[0] == 0
    for seed in (0, 2):
        a, b = (read_image(f"{out}/00000{seed}.png") for out in "ab")
        assert (a - b).abs().max() <= 1 / 255


def test_options_reach_what_they_name(capsys, tiny):
    words = ("optimize", HEART, "--model", tiny, "--steps", "3")
    runs = {
        "plain": (),
        "pixels": ("--canvas", "pixels"),
        "scale": ("--scale", "1"),
        "lr": ("--lr", "0.5"),
        "negative": ("--negative-prompt", "blue"),
        "bfloat16": ("--dtype", "bfloat16"),
    }
    seen = []
    for name, options in runs.items():
        assert sds(capsys, *words, *options, "--out", name)[0] == 0
        seen.append(read_image(f"{name}/000000.png"))
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_text_encoder_is_gone_while_it_optimises(capsys, tiny, monkeypatch):
    encoders, alive = [], []
    residual, drop_text = distill.SDS.residual, Prior.drop_text

    def dropping(self):
        encoders.append(weakref.ref(self.text))
        drop_text(self)

    def following(self, *arguments):
        gc.collect()
        alive.append(encoders[0]() is not None)
        return residual(self, *arguments)

    monkeypatch.setattr(Prior, "drop_text", dropping)
    monkeypatch.setattr(distill.SDS, "residual", following)
    assert sds(capsys, "optimize", HEART, "--model", tiny, "--steps", "2", "--out", "out")[0] == 0
    assert alive == [False, False]


def test_more_seeds_are_added_to_a_folder(capsys, tiny):
    words = ("optimize", HEART, "--model", tiny, "--out", "out", "--steps", "2", "--seeds")
    assert sds(capsys, *words, "0")[0] == 0
    first = Path("out/000000.png").stat().st_mtime_ns
    code, out, _ = sds(capsys, *words, "0-1")
    assert (code, out) == (0, "out: 2 images, 1 of them made before\n")
    assert Path("out/000000.png").stat().st_mtime_ns == first
    assert read_image("out/grid.png").shape == (1, 3, 20, 38)


# --- what goes wrong on the way --------------------------------------------------------------


def test_a_value_that_is_not_finite_stops_its_seed_only(capsys, tiny, monkeypatch):
    residual, calls = distill.SDS.residual, 0

    def poisoned(self, x_0, *rest):
        nonlocal calls
        calls += 1
        out = residual(self, x_0, *rest).clone()
        if calls == 7 and len(out) > 1:
            out[1] = torch.nan
        return out

    monkeypatch.setattr(distill.SDS, "residual", poisoned)
    words = ("optimize", HEART, "--model", tiny, "--steps", "12", "--seeds", "3,4", "--out", "out")
    code, out, _ = sds(capsys, *words)
    assert code == 1
    assert "seed 4 stopped at step 6, where a value was not finite" in out
    seeds = manifest()["seeds"]
    assert (seeds["3"]["state"], seeds["3"]["steps"]) == ("done", 12)
    assert (seeds["4"]["state"], seeds["4"]["steps"]) == ("frozen", 6)
    assert seeds["4"]["loss"][6] is None
    assert read_image("out/000004.png").shape == (1, 3, 16, 16)
    assert sds(capsys, *words)[0] == 1


def test_control_c_keeps_what_was_made(capsys, tiny, monkeypatch):
    residual, calls = distill.SDS.residual, 0

    def interrupted(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return residual(self, *arguments)

    monkeypatch.setattr(distill.SDS, "residual", interrupted)
    words = ("optimize", HEART, "--model", tiny, "--steps", "10", "--seeds", "0-1", "--out", "out")
    code, _, err = sds(capsys, *words, "--batch-size", "1")
    assert code == 130 and err.splitlines()[-1].startswith("sds: stopped")
    states = {seed: (e["state"], e["steps"]) for seed, e in manifest()["seeds"].items()}
    assert states == {"0": ("done", 10), "1": ("interrupted", 4)}
    assert read_image("out/000001.png").shape == (1, 3, 16, 16)
    assert sds(capsys, *words)[:2] == (0, "out: 2 images, 1 of them made before\n")
    assert Path("out/grid.png").exists()


def test_a_full_disk_is_one_line_and_exit_code_1(capsys, tiny, monkeypatch):
    from sdstoolkit import jobs

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "write_image", full)
    code, _, err = sds(capsys, "optimize", HEART, "--model", tiny, "--steps", "2", "--out", "out")
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "sds: [Errno 28] No space left on device (what was made"
    )


# --- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("optimise", HEART), "there is no verb 'optimise', expected one of demo, denoise"),
        (("optimize",), "Missing from sds optimize: --out DIR; see sds optimize --help"),
        (("optimize", HEART), "--out DIR; see"),
        (("optimize", HEART, "--out"), "'--out'"),
        (("optimize", HEART, "blue", "--out", "o"), "blue"),
        (
            ("optimize", HEART, "--out", "o", "--stesp", "3"),
            "--stesp, 3 (Perhaps you meant: --steps",
        ),
        (("optimize", HEART, "--out", "o", "--steps", "many"), "'many'"),
        (("optimize", HEART, "--out", "o", "--steps", "0"), "--steps is 0, expected 1 or more"),
        (
            ("optimize", HEART, "--out", "o", "--batch-size", "-1"),
            "--batch-size is -1, expected 1",
        ),
        (("optimize", HEART, "--out", "o", "--lr", "nan"), "--lr is nan, expected above 0"),
        (("optimize", HEART, "--out", "o", "--lr", "0"), "--lr is 0.0, expected above 0"),
        (
            ("optimize", HEART, "--out", "o", "--scale", "inf"),
            "--scale is inf, expected any finite",
        ),
        (("optimize", HEART, "--out", "o", "--seeds", ""), "seeds '' could not be read"),
        (("optimize", HEART, "--out", "o", "--seeds", "3-1"), "run backwards"),
        (("optimize", HEART, "--out", "o", "--dtype", "int8"), "'int8'"),
        (("optimize", "\udcff", "--out", "o"), "surrogates not allowed"),
        (("optimize", HEART, "--out", "o", "--loss", "sdx"), "'sdx'; choose one of asd, "),
        (
            ("optimize", HEART, "--out", "o", "--canvas", "weights"),
            "choose one of fourier, latents, ",
        ),
        (("optimize", HEART, "--out", "o", "--model", "no-such"), "no model 'no-such'"),
        (("optimize", HEART, "--out", "o", "--model", "o/no-such"), "'o/no-such'"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, tuple) else None,
)
def test_wrong_words(capsys, words, match):
    assert match in refused(capsys, *words)


BOXED = """\
╭─ Unrecognized options ────────────────────╮
│ Unrecognized options: --stesp             │
│ ───────────────────────────────────────── │
│ Perhaps you meant:                        │
│     --steps INT                           │
│         Steps of optimisation: 1 or more. │
│ ───────────────────────────────────────── │
│ For full helptext, run sds optimize --help │
╰───────────────────────────────────────────╯
"""


def test_a_box_is_read_with_and_without_its_lines():
    plain = BOXED.translate(str.maketrans("│╭╮╰╯─", "     -"))
    for box in (BOXED, plain):
        said = cli._message(box, "sds optimize")
        expected = (
            "Unrecognized options: --stesp (Perhaps you meant: --steps INT); see sds optimize"
        )
        assert said == f"{expected} --help"
    assert cli._message("", "sds optimize").startswith("the options could not be read")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--device", "gpu9"), "gpu9"),
        (("--scale", "1", "--negative-prompt", "blue"), "negative"),
    ],
)
def test_wrong_options_for_a_model(capsys, tiny, options, match):
    words = ("optimize", HEART, "--model", tiny, "--out", "out", *options)
    assert match in refused(capsys, *words)


def test_a_prompt_that_is_too_long(capsys, tiny):
    words = ("optimize", "a red heart " * 40, "--model", tiny, "--out", "out")
    assert "token" in refused(capsys, *words)


def test_a_model_that_reads_no_prompts(capsys):
    path = str(tiny_models.folder("ddpm_epsilon"))
    assert "prompt" in refused(capsys, "optimize", HEART, "--model", path, "--out", "out")
    words = ("optimize", "", "--model", path, "--out", "out", "--steps", "2")
    assert sds(capsys, *words, "--scale", "1")[0] == 0


@pytest.fixture
def copied(tiny, tmp_path) -> Path:
    """The tiny model, to be broken."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_a_folder_without_an_index(capsys, copied):
    (copied / "model_index.json").unlink()
    assert "model_index.json" in refused(
        capsys, "optimize", HEART, "--model", "model", "--out", "out"
    )


def test_a_broken_index(capsys, copied):
    (copied / "model_index.json").write_text("{")
    assert "model_index.json" in refused(
        capsys, "optimize", HEART, "--model", "model", "--out", "out"
    )


def test_weights_in_a_pickle(capsys, copied):
    (weights,) = (copied / "unet").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    assert "safetensors" in refused(capsys, "optimize", HEART, "--model", "model", "--out", "out")


def test_weights_that_are_not_finite(capsys, copied):
    from safetensors.torch import load_file, save_file

    (weights,) = (copied / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "finite" in refused(capsys, "optimize", HEART, "--model", "model", "--out", "out")


def test_folders_that_are_not_ours(capsys, tiny):
    words = ("optimize", HEART, "--model", tiny, "--out", "photos")
    Path("photos").mkdir()
    Path("photos/holiday.jpg").write_bytes(b"precious")
    assert "'photos' is not empty" in refused(capsys, *words)
    Path("file").touch()
    assert "is a file" in refused(capsys, *words[:-1], "file")
    assert Path("photos/holiday.jpg").read_bytes() == b"precious"


def test_a_folder_of_other_options(capsys, tiny):
    words = ("optimize", HEART, "--model", tiny, "--out", "out", "--steps")
    assert sds(capsys, *words, "2")[0] == 0
    assert "its steps is 2, not 3" in refused(capsys, *words, "3")


# --- in a process of its own -----------------------------------------------------------------


def test_the_file_itself_and_control_c_from_outside(tiny):
    """`python pipelines/optimize.py` is `sds optimize`, and SIGINT is Ctrl-C."""
    script = Path(__file__).parent.parent / "pipelines" / "optimize.py"
    words = [sys.executable, str(script), HEART, "--model", tiny, "--out", "out"]
    run = subprocess.Popen(
        [*words, "--steps", "1000000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 300
        while not Path("out/manifest.json").exists():
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 130
    assert err.splitlines()[-1].startswith("sds: stopped") and "Traceback" not in err
    assert manifest()["seeds"]["0"]["state"] == "interrupted"
    assert read_image("out/000000.png").shape == (1, 3, 16, 16)
