"""Many prompts, many processes, runs that are cut off: nothing is lost, mixed or made twice."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sdstoolkit
from sdstoolkit import SDS, VP, Codec, Prior, checkpoints, optimize, processes
from sdstoolkit._files import sha256
from sdstoolkit._prompts import Wish, read_prompts
from sdstoolkit.adapters import names
from sdstoolkit.batch import Batch
from sdstoolkit.canvas import Canvas, Pixels, Tile
from sdstoolkit.jobs import Failed, Job
from sdstoolkit.processes import Processes, join
from sdstoolkit.rng import generators, normal
from sdstoolkit.toy import Mixture

ROOT = Path(__file__).parent.parent
STEPS = 40


class Grey(Canvas):
    """Four by four pixels without a model."""

    lr = 0.1

    def __init__(self, seeds) -> None:
        torch.nn.Module.__init__(self)
        self.seeds, self.n = tuple(seeds), len(seeds)
        self.theta = torch.nn.Parameter(normal(generators(seeds, "canvas"), (3, 4, 4)))

    def image(self) -> torch.Tensor:
        return torch.sigmoid(self.theta)

    def x_0(self, augment=None) -> torch.Tensor:
        return self.theta


class Noisy:
    """A loss with noise of each row's own, and a state from step to step."""

    def __init__(self) -> None:
        self.seen = torch.zeros(())

    def __call__(self, x_0, *, progress=0.0, rng=None):
        self.seen = 0.9 * self.seen + progress
        noise = normal(rng, x_0.shape[1:])
        return ((x_0 - 1 + 0.3 * noise) ** 2).sum() * (1 + self.seen)

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"].clone()


def made(seeds):
    canvas = Grey(seeds)
    return canvas, optimize(canvas, Noisy(), steps=STEPS)


def make(out, *, seeds=(0, 1, 2, 3), every=5, pause=0.0, who=None, stop_at=None, batch=2):
    """The run that every test here cuts off somewhere."""
    job = Job(out, command="t", options={"steps": STEPS}, seeds=seeds, processes=who)
    told = []

    def tell(rows, loss):
        told.append(rows)
        time.sleep(pause)
        if len(told) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with job:
        for part in job.parts(batch):
            with part as now:
                job.follow(*made(now), total=STEPS, tell=tell, checkpoint_every=every)
        job.gather()
    return job


def images(out) -> dict[str, str]:
    """Every finished file and its hash, but for what tells the time."""
    return {p.name: sha256(p) for p in sorted(Path(out).glob("*.png"))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    make(out)
    return images(out), json.loads((out / "manifest.json").read_text())["seeds"]


# --- what is asked for ------------------------------------------------------------------------


def test_prompts_of_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_text("a heart\n\n# not this\n  a star \n")
    (tmp_path / "a.csv").write_text('prompt,negative_prompt\n"a heart, red",blurry\na star,\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "a heart", "negative_prompt": "x"}\n')
    assert read_prompts(tmp_path / "a.txt") == (Wish("a heart"), Wish("a star"))
    assert read_prompts(tmp_path / "a.csv") == (Wish("a heart, red", "blurry"), Wish("a star"))
    assert read_prompts(tmp_path / "a.jsonl") == (Wish("a heart", "x"),)
    assert Wish("../../etc/passwd & a Heart!").folder(7) == "00007-etc-passwd-a-heart"
    assert Wish("心").folder(0) == "00000-prompt"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.txt", "\n# x\n", "no prompts"),
        ("a.csv", "text\nheart\n", "no column 'prompt'"),
        ("a.csv", "prompt\n  \n", "line 2 .* no prompt"),
        ("a.jsonl", '{"prompt": 3}', "line 1 .* no text"),
        ("a.jsonl", '"heart"', "line 1 .* not a JSON object"),
        ("a.jsonl", "{", "line 1 .* not a JSON object"),
        ("a.yaml", "a", "no known suffix"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        read_prompts(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / f"missing-{name}" if name != "a.yaml" else tmp_path / "m.txt")


# --- checkpoints ------------------------------------------------------------------------------


def test_an_optimisation_that_was_put_away_ends_with_the_same_bits():
    canvas, steps = made((3, 8))
    for _ in steps:
        pass
    expected = canvas.theta.detach().clone()
    first, cut = made((3, 8))
    for _ in range(17):
        next(cut)
    state = {name: tensor.clone() for name, tensor in cut.state().items()}
    second, going = made((3, 8))
    going.restore(state)
    left = list(going)
    assert [step.index for step in left] == list(range(17, STEPS))
    assert torch.equal(second.theta, expected) and not torch.equal(first.theta, expected)
    with pytest.raises(ValueError, match="another one"):
        made((3, 8, 9))[1].restore(state)


@pytest.mark.parametrize("kind", [Pixels, Tile])
def test_a_canvas_that_draws_was_put_away_with_its_draws(kind):
    """A tile rolls at random in every step: the rolls go on where they were."""
    mixture = Mixture(torch.zeros(1, 192), std=0.5, shape=(3, 8, 8)).under(VP())

    def begin(seeds):
        canvas = kind(Prior(mixture, Codec()), n=len(seeds), seed=seeds)
        return canvas, optimize(canvas, SDS(mixture), steps=10)

    whole, steps = begin((3, 8))
    *_, last = steps
    _, cut = begin((3, 8))
    for _ in range(4):
        next(cut)
    state = {name: tensor.clone() for name, tensor in cut.state().items()}
    again, going = begin((3, 8))
    going.restore(state)
    *_, end = going
    assert torch.equal(end.values, last.values)
    assert all(map(torch.equal, again.parameters(), whole.parameters()))
    if kind is Tile:
        _, wrong = begin((3, 8))
        wrong.restore(state | {"canvas.roll": begin((5, 9))[0].state()["roll"]})
        assert not torch.equal([*wrong][-1].values, last.values)


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    for step in (5, 10, 15):
        checkpoints.save(tmp_path, (4, 7), step, {"x": torch.full((2,), float(step))})
    files = sorted((tmp_path / checkpoints.FOLDER).iterdir())
    assert [int(f.name.split("-")[1]) for f in files] == [10, 15]
    assert checkpoints.latest(tmp_path, 4).step == 15
    data = files[1].read_bytes()
    files[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = checkpoints.latest(tmp_path, 4)
    assert found.step == 10 and found.seeds == (4, 7) and found.tensors["x"].tolist() == [10, 10]
    files[0].write_bytes(b"")
    assert checkpoints.latest(tmp_path, 4) is None and checkpoints.groups(tmp_path) == []
    checkpoints.clear(tmp_path, 4)
    assert not (tmp_path / checkpoints.FOLDER).exists()


def _child(out, pause, stop_at):
    torch.set_num_threads(1)
    try:
        make(out, pause=pause, stop_at=stop_at)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def start(out, *, pause=0.0, stop_at=None):
    """The run in a process of its own, that knows what this one has imported."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_child, args=(out, pause, stop_at))
    process.start()
    return process


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path, undisturbed):
    process = start(tmp_path / "run", stop_at=13)
    process.join(60)
    assert process.exitcode == 130
    (kept,) = checkpoints.groups(tmp_path / "run")
    assert kept.step == 13 and kept.seeds == (0, 1)
    seeds = json.loads((tmp_path / "run" / "manifest.json").read_text())["seeds"]
    assert {entry["state"] for entry in seeds.values()} == {"interrupted"}
    make(tmp_path / "run")
    assert images(tmp_path / "run") == undisturbed[0]


def test_five_kills_lose_nothing_and_end_with_the_same_bits(tmp_path, undisturbed):
    """SIGKILL at moments of a seeded die; benchmarks/jobs.py does fifty."""
    out, die, finished = tmp_path / "run", random.Random(0), {}
    for _ in range(5):
        process = start(out, pause=0.004)
        time.sleep(die.uniform(0.05, 0.5))
        process.kill()
        process.join(60)
        if (out / "manifest.json").exists():
            seeds = json.loads((out / "manifest.json").read_text())["seeds"]
            now = {e["file"]: e["sha256"] for e in seeds.values() if e["state"] == "done"}
            assert finished.items() <= now.items()
            finished = {k: v for k, v in now.items() if (out / k).exists()}
    make(out)
    assert images(out) == undisturbed[0]
    entries = json.loads((out / "manifest.json").read_text())["seeds"]
    for seed, entry in undisturbed[1].items():
        assert entries[seed]["loss"] == entry["loss"] and entries[seed]["state"] == "done"


@pytest.mark.skipif("shapes" not in names(), reason="the bundled model is not there")
def test_a_run_that_ended_after_its_last_image_is_drawn_by_the_next(tmp_path, monkeypatch):
    """By Ctrl-C, and by a kill, after which the manifest still says that it is running."""
    from sdstoolkit import batch, cli

    def stop(job):
        raise KeyboardInterrupt

    words = ["optimize", "a red heart", "--seeds", "0-1", "--steps", "2", "--out"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    expected = images(tmp_path / "whole")
    assert {"grid.png", "loss.png"} < set(expected)
    with monkeypatch.context() as patched:
        patched.setattr(batch, "draw", stop)
        assert cli.main([*words, str(tmp_path / "cut")]) == 130
    path = tmp_path / "cut" / "manifest.json"
    record = json.loads(path.read_text())
    assert {entry["state"] for entry in record["seeds"].values()} == {"done"}
    assert not (tmp_path / "cut" / "grid.png").exists()
    shutil.copytree(tmp_path / "cut", tmp_path / "killed")
    record["runs"][-1]["state"] = "running"
    (tmp_path / "killed" / "results.jsonl").unlink()
    del record["outputs"]["results.jsonl"]
    (tmp_path / "killed" / "manifest.json").write_text(json.dumps(record))
    monkeypatch.setattr(sdstoolkit, "load", None)  # no model is needed for that
    for name in ("cut", "killed"):
        assert cli.main([*words, str(tmp_path / name)]) == 0
        assert images(tmp_path / name) == expected
        lines = (tmp_path / name / "results.jsonl").read_text()
        assert lines == (tmp_path / "whole" / "results.jsonl").read_text()


# --- processes --------------------------------------------------------------------------------


def test_processes_share_by_seed_and_meet_in_one_manifest(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    make(alone, seeds=range(5), batch=1)
    ranks = [Processes(rank, 2, meets=False) for rank in range(2)]
    options = {"steps": STEPS}
    with Job(shared, command="t", options=options, seeds=range(5), processes=ranks[0]):
        pass  # the main process begins
    for who in reversed(ranks):  # and comes last, so that it finds a journal
        job = make(shared, seeds=range(5), batch=1, who=who)
        assert job.mine == tuple(range(who.rank, 5, 2))
    assert images(shared) == images(alone)
    record = json.loads((shared / "manifest.json").read_text())
    assert sorted(record["seeds"]) == list("01234") and not list(shared.glob(".journal*"))
    lines = [json.loads(line) for line in (shared / "results.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == list(range(5))
    assert all(line["loss"] is not None and line["state"] == "done" for line in lines)


def test_what_a_dead_process_made_is_known_to_the_next_run(tmp_path):
    main, other = (Processes(rank, 2, meets=False) for rank in range(2))
    with pytest.raises(Failed), Job(
        tmp_path / "r", command="t", options={"steps": STEPS}, seeds=range(4), processes=main
    ):
        raise OSError("the disk is full")
    make(tmp_path / "r", who=other, batch=1)  # the main process never came to merge
    again = Job(tmp_path / "r", command="t", options={"steps": STEPS}, seeds=range(4))
    assert again.todo == (0, 2)


def test_another_number_of_processes_than_was_asked_for_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="2 processes were asked for and 1 was started.*torchrun"):
        join(2)
    assert join(1) == Processes(0, 1)

    class Parent:
        def parent(self):
            return self

        def cmdline(self):
            return ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes=2", "x.py"]

    monkeypatch.setattr("psutil.Process", Parent)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ValueError, match="2 processes were asked for and 1 was started"):
        join()
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.pick_device("auto") == "cuda:1"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_is_short_halves_the_batch(tmp_path, capsys, error):
    job, sizes = Job(tmp_path / "r", command="t", options={}, seeds=range(12)), []
    with job:
        for part in job.parts(8):
            with part as seeds:
                sizes.append(len(seeds))
                if len(seeds) > 2:
                    raise error
                for seed in seeds:
                    job.keep(seed, torch.zeros(3, 4, 4), state="done", steps=1)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert not Job(tmp_path / "r", command="t", options={}, seeds=range(12)).todo
    assert "do not fit into memory, going on with 2" in capsys.readouterr().err
    with pytest.raises(Failed), Job(tmp_path / "s", command="t", options={}, seeds=(0,)) as job:
        for part in job.parts(8):
            with part:
                raise error


# --- many prompts -----------------------------------------------------------------------------


def many(out, file, who=None, monkeypatch=None):
    if who is not None:
        monkeypatch.setattr("sdstoolkit.batch.join", lambda asked: who)
    options = {"prompt": "", "negative_prompt": "", "steps": STEPS}
    batch = Batch(out, command="t", options=options, seeds=(0, 1, 2), prompts=str(file))
    with batch:
        for job, part in batch.parts(2):
            with part as seeds:
                job.follow(*made(seeds), total=STEPS)
        batch.finish()
    return batch


def test_many_prompts_are_a_folder_each_and_one_table(tmp_path, capsys):
    file = tmp_path / "p.txt"
    file.write_text("a heart\na star\n")
    batch = many(tmp_path / "r", file)
    assert batch.report() == 0 and "00001-a-star: 3 images" in capsys.readouterr().out
    found = {str(p.relative_to(tmp_path / "r")) for p in (tmp_path / "r").rglob("*.*")}
    assert {"sheet.png", "results.jsonl", "manifest.json", "00001-a-star/000002.png"} <= found
    assert {"00000-a-heart/grid.png", "00000-a-heart/loss.png"} <= found
    lines = [json.loads(line) for line in (tmp_path / "r/results.jsonl").read_text().splitlines()]
    assert [(line["folder"], line["seed"]) for line in lines][3] == ("00001-a-star", 0)
    assert {line["prompt"] for line in lines} == {"a heart", "a star"}
    assert many(tmp_path / "r", file).todo == 0
    file.write_text("a heart\na ring\n")
    with pytest.raises(ValueError, match="its prompts is .*star.*, not .*ring"):
        many(tmp_path / "r", file)


def test_prompts_are_shared_image_by_image(tmp_path, monkeypatch):
    file = tmp_path / "p.txt"
    file.write_text("a heart\na star\n")
    many(tmp_path / "alone", file)
    for rank in (1, 0):
        who = Processes(rank, 2, meets=False)
        if rank == 1:  # the main process makes the folders; here it has to have been there
            monkeypatch.setattr("sdstoolkit.batch.join", lambda asked: Processes(0, 2, False))
            options = {"prompt": "", "negative_prompt": "", "steps": STEPS}
            kept = Batch(
                tmp_path / "two", command="t", options=options, seeds=(0, 1, 2), prompts=str(file)
            )
            with kept:
                pass
        batch = many(tmp_path / "two", file, who, monkeypatch)
        assert batch.mine == 3
    for name in ("00000-a-heart/000001.png", "00001-a-star/000002.png", "sheet.png"):
        assert sha256(tmp_path / "two" / name) == sha256(tmp_path / "alone" / name)


@pytest.mark.slow
@pytest.mark.skipif("shapes" not in names(), reason="the bundled model is not there")
def test_two_processes_of_accelerate_make_what_one_makes(tmp_path):
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes"]
    line += ["2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    line += ["pipelines/optimize.py", "a red heart", "--seeds", "0-1", "--steps", "2", "--out"]
    env = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*line, str(tmp_path / "two")], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "2 images" in done.stdout and done.stdout.count("images") == 1
    record = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert record["runs"][0]["processes"] == 2 and sorted(record["seeds"]) == ["0", "1"]
    from sdstoolkit import cli

    alone = ["optimize", "a red heart", "--seeds", "0-1", "--steps", "2"]
    assert cli.main([*alone, "--batch-size", "1", "--out", str(tmp_path / "one")]) == 0
    from sdstoolkit import read_image

    for name in ("000000.png", "000001.png"):
        a, b = (read_image(tmp_path / who / name) for who in ("one", "two"))
        assert float((a - b).abs().max()) <= 1 / 255 + 1e-6
