"""The app: its rules of entry, what it refuses, its interface, and the page in a browser.

One server is started for all of it, in this process. The browser is Debian's chromium; without one
the tests of the page are skipped, and in CI (`CI=true`) they fail instead.
"""

import io
import json
import math
import os
import re
import shutil
import socket
import threading
import time
import zipfile
from pathlib import Path

import pytest
import tiny_models
import torch

from sdstoolkit import _plugins, cli, images, read_image
from sdstoolkit.adapters import names

gradio = pytest.importorskip("gradio", reason="the extra `demos` is not installed")

from sdstoolkit.choices import Choices, Own  # noqa: E402
from sdstoolkit.demos import (  # noqa: E402
    _guard,
    _options,
    _paint,
    _pictures,
    _site,
    app,
    denoise,
    edit,
    optimize,
    restore,
)
from sdstoolkit.distill import cards  # noqa: E402
from sdstoolkit.pipelines.demo import Options  # noqa: E402

needs_shapes = pytest.mark.skipif("shapes" not in names(), reason="the bundled model is not there")
RED, BLUE = "a red heart on a white background", "a blue heart on a white background"
SHOTS = Path(__file__).parent.parent / "screenshots"  # git ignores it; CI keeps it


# --- who may come in --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others in, expected --auth"),
        (["--share"], "a share link lets others in, expected --auth"),
        (["--auth", "ada"], "--auth could not be read, expected USER:PASSWORD"),
        (["--port", "70000"], "--port is 70000, expected 0 to 65535"),
        (["--jobs", "0"], "--jobs is 0, expected 1 or more"),
    ],
)
def test_entry_is_refused_before_anything_starts(words, match, capsys):
    assert cli.main(["demo", *words]) == 2
    assert match in capsys.readouterr().err


def test_auth_may_come_from_a_file(tmp_path):
    (tmp_path / "who").write_text("ada:a:b\n")
    assert app._auth(f"@{tmp_path / 'who'}") == ("ada", "a:b")
    assert app._is_loopback("::1") and app._is_loopback("127.0.0.2")
    assert not app._is_loopback("0.0.0.0") and not app._is_loopback("example.org")


def test_models_are_those_that_are_offered(tmp_path):
    closed = _site.Site(tmp_path, models=("shapes",))
    for name in ("/etc", "owner/name", "../x", "", None, "a\0b"):
        with pytest.raises(ValueError, match=r"not offered here|expected a name"):
            closed._allowed(name)
    here = _site.Site(tmp_path, allow_folders=True)
    assert here._allowed(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ValueError, match="names of the hub are off"):
        here._allowed("owner/name")
    hub = _site.Site(tmp_path, allow_hub=True)
    assert hub._allowed("owner/name") == "owner/name"
    for name in ("/etc", "../x"):
        with pytest.raises(ValueError, match="not offered here"):
            hub._allowed(name)


# --- what is refused, in one sentence ---------------------------------------------------------


def test_errors_are_a_sentence_without_paths():
    @_guard.spoken
    def broken(error):
        raise error

    @_guard.spoken
    def stream(error):
        yield 1
        raise error

    with pytest.raises(gradio.Error) as caught:
        broken(ValueError("the image '/tmp/sds-demo-x/cache/ab12/heart.png'\n is broken"))
    assert caught.value.message == "the image 'heart.png' is broken"
    assert not caught.value.print_exception
    with pytest.raises(gradio.Error) as caught:
        broken(KeyError("/root/secret"))
    assert "secret" not in caught.value.message and "nobody foresaw" in caught.value.message
    going = stream(OSError(28, "No space left", "/var/lib/x"))
    assert next(going) == 1
    with pytest.raises(gradio.Error, match="No space left"):
        next(going)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", None, True, 2.5, 11, -1])
def test_numbers_out_of_range(value):
    with pytest.raises(ValueError, match="n is .*, expected a whole number from 0 to 10"):
        _guard.number("n", value, 0, 10, whole=True)


def test_uploads(tmp_path):
    from PIL import Image

    image = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    images.write_image(tmp_path / "wide.png", image)
    with pytest.raises(ValueError, match="the image is 60 x 40, the model takes 64 x 64"):
        _guard.read_upload(str(tmp_path / "wide.png"), (64, 64), fit=False)
    fitted = _guard.read_upload(str(tmp_path / "wide.png"), (64, 64), fit=True)
    assert fitted.shape == (1, 3, 64, 64)
    exact = _guard.read_upload(str(tmp_path / "wide.png"), (40, 60), fit=False)
    assert torch.equal(exact, read_image(tmp_path / "wide.png"))
    middle = _guard.read_upload(str(tmp_path / "wide.png"), (40, 40), fit=True)
    assert torch.allclose(middle, exact[..., 10:50], atol=1e-6)
    _guard.limit_decoders()
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "wide.png").read_bytes()[:300])
    Image.new("RGB", (64, 64)).save(tmp_path / "anim.gif")
    Image.new("RGBA", (64, 64)).save(tmp_path / "clear.png")
    for name, match in (
        ("bomb.png", "pixels"),
        ("text.png", "no PNG, JPEG, WEBP"),
        ("cut.png", "could not be read"),
        ("anim.gif", "no PNG, JPEG, WEBP"),
        ("clear.png", "transparency"),
        ("missing.png", "not an image"),
    ):
        with pytest.raises(ValueError, match=match):
            _guard.read_upload(str(tmp_path / name), (64, 64), fit=True)
    with pytest.raises(ValueError, match="uploaded first"):
        _guard.read_upload(None, (64, 64), fit=True)


def test_a_page_runs_one_thing_and_old_runs_make_room(tmp_path, monkeypatch):
    runs, one, two = (
        _site.Runs(tmp_path),
        gradio.Request(session_hash="one"),
        gradio.Request(session_hash="two"),
    )
    with runs.working(one, "a") as run:
        with pytest.raises(ValueError, match="running something already"), runs.working(one, "b"):
            pass
        with runs.working(two, "a") as other:
            assert other.folder != run.folder
        assert runs.halt(one, "a", final=False) and run.halt.is_set()
        (run.folder / "x").write_bytes(b"1234")
    assert not runs.halt(one, "a", final=False)
    with pytest.raises(ValueError, match="nothing to resume"), runs.working(one, "a", resume=True):
        pass
    monkeypatch.setattr(_site, "MOST_RUNS", 1)
    with runs.working(two, "b"):
        assert not run.folder.exists()
    runs.forget(two)
    assert runs.find(two, "b") is None and not any(tmp_path.iterdir())


def test_what_is_painted_is_a_mask():
    from PIL import Image

    assert _paint.painted(None, (64, 64)) is None
    layer = Image.new("RGBA", (512, 512))
    assert _paint.painted({"layers": [layer]}, (64, 64)) is None
    layer.paste((200, 0, 0, 255), (0, 0, 256, 512))
    mask = _paint.painted({"layers": [layer]}, (64, 64))
    assert mask.shape == (1, 1, 64, 64) and mask[..., :32].min() == 1 and mask[..., 32:].max() == 0


def test_curves_are_text_of_the_page():
    said = _pictures.curve([(1, 0.5), (2, float("nan")), (3, 2.0)], label="<loss>", total=3)
    assert said.count("<circle") == 2 and "&lt;loss&gt;" in said and "http" not in said
    assert "<script>" not in _pictures.lines([("a", "<script>")])


def test_a_request_that_grows_is_cut_off():
    """A body without a length is counted while it comes in."""
    import asyncio

    taken = []

    async def inner(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            taken.append(len(message["body"]))

    async def endless():
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    scope = {"type": "http", "headers": []}
    asyncio.run(_guard.LimitBody(inner, 35)(scope, endless, None))
    assert taken == [10, 10, 10]


@needs_shapes
@pytest.mark.parametrize("canvas", ["latents", "pixels"])
def test_the_gradient_that_is_shown_is_the_step_s(tmp_path, canvas):
    """Where x_0 is the parameter itself too, which is left without hooks."""
    fields = (RED, "", "sds", canvas, 3, 7.5, 0, "0-1", None, "", "shapes")
    own = [option.default for name in _options.names() for option in _options.options(name)]
    live = optimize.begin(_site.Site(tmp_path / "site"), _site.Run(tmp_path), (*fields, *own))
    blank = _pictures.heat(torch.zeros(2, 8, 8, 8), live.canvas.size)
    for step in live.steps:
        live.done, _ = step.index + 1, live.times.append(0.5)
        live.points.append((live.done, step.loss))
        shown = optimize._looks(live)[2]
        assert shown != blank
        gradient = live.loss.last.gradient
        assert shown == _pictures.heat(gradient, live.canvas.size)
        if canvas == "latents":
            assert torch.equal(gradient, live.canvas.theta.grad)
    assert not any(p._backward_hooks for p in live.canvas.parameters())


def test_every_option_of_the_command_is_a_field():
    """Of each loss and canvas, with its words and a default that it takes itself."""
    for name, own in vars(Choices()).items():
        if not isinstance(own, Own):
            continue
        shown = {option.name: option for option in _options.options(name)}
        assert set(shown) == set(vars(own)) - {n for owner, n in _options.UNSAFE if owner == name}
        for option in shown.values():
            value, field = getattr(own, option.name), option.field()
            assert field.value == value == option.read(value) and type(value) is option.kind
            assert option.about.endswith(".") and field.info == option.about
    for package, names_of in (("distill", "loss"), ("canvas", "canvas")):
        known = set(_plugins.names(f"sdstoolkit.{package}"))
        assert known & set(_options.names()), names_of
    assert set(_options.names()) <= {
        *_plugins.names("sdstoolkit.distill"), *_plugins.names("sdstoolkit.canvas")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"vsd_rank": 0}, "rank of vsd is 0, expected a whole number from 1 to 256"),
        ({"vsd_rank": 257}, "rank of vsd is 257"),
        ({"vsd_rank": 2.5}, "rank of vsd is 2.5"),
        ({"vsd_rank": True}, "rank of vsd is True"),
        ({"vsd_lr": float("nan")}, "lr of vsd is nan"),
        ({"ism_stride": 1e-4}, "stride of ism is 0.0001, expected a number from 0.0125 to 1"),
        ({"vsd_lr": 0}, "lr of vsd is 0, expected a number from 0.0003125"),
        ({"strokes_filled": 1}, "filled of strokes is 1, expected yes or no"),
        ({"strokes_paths": None}, "paths of strokes is None"),
    ],
)
def test_options_out_of_range(changed, match):
    values = {o.key: o.default for name in _options.names() for o in _options.options(name)}
    used = ("vsd", "ism", "strokes")
    assert _options.chosen(used, values) == {name: Choices().own(name) for name in used}
    assert _options.chosen(("sds", "pixels"), values | changed) == {}  # not theirs
    with pytest.raises(ValueError, match=match):
        _options.chosen(used, values | changed)


def test_threads_do_not_share_a_run(tmp_path):
    runs, seen = _site.Runs(tmp_path), []

    def one(name):
        with runs.working(gradio.Request(session_hash=name), "a") as run:
            time.sleep(0.01)
            seen.append(run.folder)

    threads = [threading.Thread(target=one, args=(str(k),)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 8


# --- the running app --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    if "shapes" not in names():
        pytest.skip("the bundled model is not there")
    looked_up, resolve = [], socket.getaddrinfo

    def watched(host, *rest, **named):
        if host not in (None, "127.0.0.1", "localhost", "::1", "0.0.0.0"):
            looked_up.append(host)
        return resolve(host, *rest, **named)

    socket.getaddrinfo = watched
    page, where = app.serve(Options(port=0), wait=False)
    yield where
    page.close(verbose=False)
    page.home.cleanup()
    socket.getaddrinfo = resolve
    assert not looked_up, f"the app asked for {looked_up}"


@pytest.fixture
def client(address):
    from gradio_client import Client

    client = Client(address, verbose=False)
    yield client
    client.close()


def ask(steps=6, prompt=RED, seeds="0", **more):
    return {
        "prompt": prompt,
        "negative": "",
        "loss": "sds",
        "canvas": "latents",
        "steps": steps,
        "scale": cards()["sds"].scale,
        "lr": 0,
        "seeds": seeds,
        "source": None,
        "shows": "",
        "model": "shapes",
        "api_name": "/optimize",
    } | more


@needs_shapes
def test_an_image_grows_and_comes_as_a_folder_of_the_command(client, tmp_path):
    seen = list(client.submit(**ask(seeds="0-1")))
    image, guess, gradient, curve, packed, status = seen[-1]
    assert len(seen) >= 2 and "**running** · step 1 of 6" in seen[0][-1]
    assert status.startswith("**done** · step 6 of 6") and "<circle" in curve
    assert read_image(image).shape == (1, 3, 68, 134)  # two of 64 side by side
    assert read_image(guess).shape == read_image(gradient).shape == (1, 3, 68, 134)
    with zipfile.ZipFile(packed) as file:
        file.extractall(tmp_path)
    folder = tmp_path / "optimize" / "result"
    assert {"000000.png", "000001.png", "manifest.json"} <= {p.name for p in folder.iterdir()}
    words = ["optimize", RED, "--steps", "6", "--seeds", "0-1", "--out"]
    assert cli.main([*words, str(folder)]) == 0  # the same options: nothing is left to do
    assert cli.main([*words, str(tmp_path / "again")]) == 0
    for name in ("000000.png", "000001.png"):
        a, b = read_image(folder / name), read_image(tmp_path / "again" / name)
        assert (a - b).abs().max() <= 1 / 255 + 1e-6


@needs_shapes
def test_a_loss_has_its_options(client, tmp_path):
    """They decide on the image, and stand in the manifest; those of another loss do neither."""
    asked = {"loss": "cfd", "steps": 3, "canvas": "palette", "palette_cell": 4}
    made = []
    for gamma, rank in ((0.0, 16), (1.0, 16), (1.0, 4)):
        said = client.predict(**ask(**asked, cfd_gamma=gamma, vsd_rank=rank))
        with zipfile.ZipFile(said[-2]) as file:
            record = json.loads(file.read("optimize/result/manifest.json"))["options"]
            made.append(file.read("optimize/result/000000.png"))
        assert record["cfd"] == {"gamma": gamma} and record["palette"]["cell"] == 4
        assert "vsd" not in record
    assert made[0] != made[1] == made[2]
    with pytest.raises(Exception, match=r"gamma of cfd is 1\.5|greater than maximum"):
        client.predict(**ask(**asked, cfd_gamma=1.5))
    with pytest.raises(Exception, match="the loss reward needs a colour"):
        client.predict(**ask(loss="reward"))
    about = {p["parameter_name"]: p for p in client.view_api(return_format="dict")[
        "named_endpoints"]["/optimize"]["parameters"]}  # fmt: skip
    assert about["vsd_rank"]["parameter_default"] == 16 and "reward_clip" not in about


@needs_shapes
def test_pause_resume_and_stop_keep_what_was_made(client):
    job = client.submit(**ask(steps=2000))
    while not job.outputs():
        time.sleep(0.05)
    client.predict(api_name="/pause")
    paused = job.result(timeout=900)
    assert paused[-1].startswith("**paused**") and paused[-2].endswith(".zip")
    at = int(re.search(r"step (\d+) of", paused[-1])[1])
    job = client.submit(api_name="/resume")
    while not job.outputs():
        time.sleep(0.05)
    assert int(re.search(r"step (\d+) of", job.outputs()[0][-1])[1]) > at
    with pytest.raises(Exception, match="running something already"):
        client.predict(**ask())
    client.predict(api_name="/stop")
    assert job.result(timeout=900)[-1].startswith("**stopped**")
    with pytest.raises(Exception, match="nothing to resume"):
        client.predict(api_name="/resume")


def an_edit(folder, method="prompt_swap", **more):
    """A red heart becomes a blue one, in the left half."""
    from gradio_client import handle_file
    from PIL import Image

    image, _ = _paint.drawing("heart", "red", "white")
    images.write_image(folder / "heart.png", image)
    layer = Image.new("RGBA", (512, 512))
    layer.paste((200, 0, 0, 255), (0, 0, 256, 512))
    layer.save(folder / "layer.png")
    painted = handle_file(str(folder / "layer.png"))
    return {
        "image": handle_file(str(folder / "heart.png")),
        "mask": {"background": None, "layers": [painted], "composite": None},
        **{"source": RED, "target": BLUE, "negative": "", "method": method, "strength": 0.8},
        **{"fit": False, "steps": 4, "scale": 3, "seed": 0, "report": True, "model": "shapes"},
        "api_name": "/edit",
    } | more


@needs_shapes
def test_an_edit_grows_keeps_outside_of_the_mask_and_reports(client, tmp_path):
    *live, measuring, last = client.submit(**an_edit(tmp_path))
    assert live and "step 1 of 8" in live[0][3] and read_image(live[0][1]).shape == (1, 3, 64, 64)
    (_, after, _, _, _), (_, _, packed, status, said) = measuring, last
    before, made = read_image(tmp_path / "heart.png"), read_image(after)
    assert torch.equal(made[..., 32:], before[..., 32:])
    assert not torch.equal(made[..., :32], before[..., :32])
    assert "50 % editable" in status and "round trip, rms" in said
    with zipfile.ZipFile(packed) as file:
        held = {Path(name).name for name in file.namelist()}
    assert held >= {"000000.png", "source.png", "mask.png", "report.txt", "manifest.json"}


@needs_shapes
@pytest.mark.parametrize("method", _plugins.names("sdstoolkit.edit"))
def test_every_method_edits(method, tmp_path):
    """As the tab does, without the page; a method takes what it has of steps and strength.

    Gradients are off around it, as `Edit.steps` has them off: a method turns on what it needs.
    """
    values = an_edit(tmp_path, method, steps=2)
    values["mask"] = None
    site = _site.Site(tmp_path / "site")
    with site.runs.working(gradio.Request(session_hash="one"), "edit") as run, torch.no_grad():
        order = ("image", "fit", "mask", "source", "target", "negative", "method", "strength")
        order += ("steps", "scale", "seed")
        given = [values[name] for name in order]
        given[0] = str(tmp_path / "heart.png")
        *_, (pair, _, _, _, _), (_, _, packed, status, _) = edit.run_edit(
            site, run, (*given, False, "shapes")
        )
    assert f"**{method}**" in status and status.endswith("done") and Path(packed).is_file()
    assert pair[0].size == pair[1].size == (64, 64)
    assert set(edit.own(method)) <= {"steps", "strength"}


@needs_shapes
def test_a_loss_that_edits_starts_from_an_image(client, tmp_path):
    from gradio_client import handle_file

    with pytest.raises(Exception, match="edits an image: upload one"):
        client.predict(**ask(loss="dds"))
    image, _ = _paint.drawing("heart", "red", "white")
    images.write_image(tmp_path / "heart.png", image)
    source = handle_file(str(tmp_path / "heart.png"))
    said = client.predict(**ask(loss="dds", prompt=BLUE, source=source, shows=RED, steps=2))
    assert said[-1].startswith("**done**")
    with zipfile.ZipFile(said[-2]) as file:
        assert "optimize/source.png" in file.namelist()


@needs_shapes
def test_a_model_of_pixels_denoises_and_restores(client, tmp_path):
    from gradio_client import handle_file
    from PIL import Image

    model = str(tiny_models.folder("ddpm_epsilon"))
    images.write_image(tmp_path / "a.png", torch.rand(1, 3, 8, 8))
    image = handle_file(str(tmp_path / "a.png"))
    pair, after, packed, status = client.predict(
        image=image, fit=False, added=0.1, sigma=0, prompt="", seed=0, model=model,
        api_name="/denoise",
    )  # fmt: skip
    assert "sigma 0.1000" in status and "dB after" in status and packed.endswith(".zip")
    assert read_image(after).shape == (1, 3, 8, 8)
    layer = Image.new("RGBA", (512, 512))
    layer.paste((200, 0, 0, 255), (0, 0, 256, 512))
    layer.save(tmp_path / "layer.png")
    layers = [handle_file(str(tmp_path / "layer.png"))]
    asked = {
        "image": image, "fit": False, "damage": True, "mask": None, "method": "pigdm", "blur": 1,
        "factor": 2, "noise": 0.01, "eta": 1, "steps": 3, "scale": 1, "prompt": "", "seed": 0,
        "model": model, "api_name": "/restore",
    }  # fmt: skip
    hole = {"background": None, "layers": layers, "composite": None}
    for operator in restore.OPERATORS:
        mask = hole if operator == "inpaint" else None
        *_, last = client.submit(**asked | {"operator": operator, "mask": mask})
        assert f"· {operator} ·" in last[3] and last[3].endswith("done"), operator
        with zipfile.ZipFile(last[2]) as file:
            held = {Path(name).name for name in file.namelist()}
        assert held >= {"000000.png", "measured.png", "truth.png", "manifest.json"}
    for method in restore.METHODS:
        *_, last = client.submit(
            **asked | {"operator": "inpaint", "mask": hole, "method": method, "noise": 0}
        )
        made, given = read_image(last[1]), read_image(tmp_path / "a.png")
        if method == "repaint":  # it keeps what is known to the bit
            assert torch.equal(made[..., 4:], given[..., 4:])
    with pytest.raises(Exception, match="nothing is painted"):
        client.predict(**asked | {"operator": "inpaint"})
    with pytest.raises(Exception, match="is for models of pixels"):
        client.predict(**asked | {"operator": "blur", "model": "shapes", "fit": True})


@pytest.mark.skipif("shapes-pixel" not in names(), reason="the bundled model is not there")
def test_the_bundled_model_of_pixels_denoises_a_drawing(tmp_path):
    """As the tab does with what it offers first, without the page."""
    image, _ = _paint.drawing("heart", "red", "white")
    path = images.write_image(tmp_path / "heart.png", image)
    site = _site.Site(tmp_path / "site")
    with site.runs.working(gradio.Request(session_hash="one"), "denoise") as run, torch.no_grad():
        asked = (str(path), True, 0.2, 0, "", 0, "shapes-pixel")
        *_, status = denoise.run_denoise(site, run, asked)
    before, after = map(float, re.findall(r"([\d.]+) dB", status))
    error = 10 / math.log(10) * math.sqrt(2 / (3 * 32 * 32))  # of the noise's power, in dB
    assert abs(before + 20 * math.log10(0.2)) < 3 * error + 0.05 and after > before + 6


@needs_shapes
def test_the_other_tabs(client, tmp_path):
    from gradio_client import handle_file

    asked = {"density": "moons", "follows": "learned", "training": 20, "levels": 4, "steps": 2}
    *_, (walk, fields, _, status) = client.submit(
        **asked, points=50, t=0.3, seed=0, api_name="/scores"
    )
    assert read_image(walk).shape == (1, 3, 384, 384) and status.endswith("50 points, done")
    facts = client.predict(model="shapes", api_name="/info")
    assert "64 x 64 pixels" in facts and "a prompt" in facts
    images.write_image(tmp_path / "a.png", torch.rand(1, 3, 64, 64))
    asked = {"image": handle_file(str(tmp_path / "a.png")), "fit": True, "added": 0.1, "sigma": 0}
    with pytest.raises(Exception, match="denoising needs a model of pixels"):
        client.predict(**asked, prompt="", seed=0, model="shapes", api_name="/denoise")


@needs_shapes
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"prompt": "a zebra"}, "does not know: 'zebra'"),
        ({"steps": 1e9}, "greater than maximum"),
        ({"seeds": "0-9"}, "expected 4 at most"),
        ({"seeds": "x"}, "could not be read"),
        ({"loss": "os"}, "not in the list of choices"),
        ({"model": "owner/name"}, "names of the hub are off"),
        ({"prompt": "x" * 5000}, "characters"),
        ({"lr": -1}, "learning rate is -1"),
    ],
)
def test_fields_that_are_wrong(client, changed, match):
    with pytest.raises(Exception, match=match):
        client.predict(**ask(**changed))


@needs_shapes
def test_requests_that_mean_harm(address):
    import httpx

    url = address.rstrip("/") + "/gradio_api"
    for path in ("/etc/passwd", "/proc/self/environ", str(Path(__file__))):
        assert httpx.get(f"{url}/file={path}").status_code in (403, 404)
    big = b"x" * (_guard.MOST_BYTES + 2**20)
    assert httpx.post(f"{url}/upload", files={"files": ("a.png", big)}).status_code == 413
    huge = b'{"data": ["' + b"x" * (2 * _guard.MOST_BYTES + 1) + b'"]}'
    assert httpx.post(f"{url}/call/optimize", content=huge).status_code == 413
    data = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}] + [None] * 12}
    sent = httpx.post(f"{url}/call/edit", json=data)
    said = httpx.get(f"{url}/call/edit/{sent.json()['event_id']}", timeout=60).text
    assert "error" in said and "root:" not in said and "Traceback" not in said


# --- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if sync_playwright is None or not Path(path).exists():
        assert not os.environ.get("CI"), "CI has no browser: .ci/run installs chromium"
        pytest.skip("no browser: apt-get install chromium, pip install playwright")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def opened(chromium, address, width, scheme):
    """A page of a given width and scheme, and what it asked for elsewhere or complained about."""
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(600_000)
    wrong: list[str] = []
    mine = (address, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(mine) else wrong.append(r.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.locator("#run").wait_for()
    SHOTS.mkdir(exist_ok=True)
    return page, wrong


def middle(canvas):
    """The colour that the page shows in the middle of a canvas."""
    from PIL import Image

    with Image.open(io.BytesIO(canvas.screenshot())) as shot:
        return shot.convert("RGB").getpixel((shot.width // 2, shot.height // 2))


def until(holds, seconds=120):
    """Wait for what the page is going to show."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the page did not show it in time"
        time.sleep(0.2)


@needs_shapes
@pytest.mark.slow
def test_the_page_wide_and_light(chromium, address, tmp_path):
    """Type, run, see the image change, stop, download; paint a mask on an example, and edit."""
    page, wrong = opened(chromium, address, 1280, "light")
    page.locator("textarea").first.fill("a large yellow star on a blue background")
    page.click("#run")
    first = page.wait_for_selector("#image img").get_attribute("src")
    page.wait_for_function(
        "old => document.querySelector('#image img')?.src != old && "
        "/step [0-9]{2,} of/.test(document.querySelector('#status').innerText)",
        arg=first,
    )
    page.screenshot(path=SHOTS / "optimise-1280-light.png", full_page=True)
    page.click("#stop")
    page.wait_for_function("/stopped/.test(document.querySelector('#status').innerText)")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as file:
        assert any(name.endswith("manifest.json") for name in file.namelist())
    page.get_by_role("tab", name="Edit").click()
    page.locator("#mask-box").get_by_role("button").first.click()
    page.locator("#mask canvas").first.wait_for()
    page.locator("#edit-examples button:visible").first.click()
    page.wait_for_function(f"document.querySelector('#target textarea').value == '{BLUE}'")
    canvas = page.locator("#mask canvas").first
    until(lambda: middle(canvas)[0] > 2 * middle(canvas)[2])  # the red heart is there to paint on
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=8)
    page.mouse.up()
    until(lambda: middle(canvas)[2] > middle(canvas)[0])  # and is painted on
    page.click("#edit")
    page.wait_for_function("/done/.test(document.querySelector('#edit-status').innerText)")
    assert page.locator("#after img").is_visible()
    assert "% editable" in page.locator("#edit-status").inner_text()
    page.screenshot(path=SHOTS / "edit-1280-light.png", full_page=True)
    page.close()
    assert not wrong


@needs_shapes
@pytest.mark.slow
def test_the_page_narrow_and_dark(chromium, address):
    """Nothing is wider than a phone, every tab opens, and a loss brings its options."""
    page, wrong = opened(chromium, address, 390, "dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    assert not page.locator("#own-vsd-rank").is_visible()
    page.locator("#loss input").click()
    page.get_by_role("option", name="vsd", exact=True).click()
    page.locator("#own-vsd-rank input").wait_for()
    assert page.locator("#own-vsd-rank input").input_value() == "16"
    assert "Rank of the adapters" in page.locator("#own-vsd-rank").inner_text()
    assert not page.locator("#own-cfd-gamma").is_visible()
    page.screenshot(path=SHOTS / "optimise-390-dark.png", full_page=True)
    for tab in ("Optimise", "Edit", "Denoise", "Restore", "Scores", "Models"):
        there = page.get_by_role("tab", name=tab)
        if not there.first.is_visible():
            page.locator(".overflow-menu > button").first.click()
            there = page.locator(".overflow-dropdown button", has_text=tab)
        there.first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    page.screenshot(path=SHOTS / "models-390-dark.png", full_page=True)
    page.close()
    assert not wrong
