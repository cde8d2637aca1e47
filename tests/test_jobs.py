"""A folder is refused, resumed or filled, and its manifest always describes what is in it."""

import json
import os
import stat
from dataclasses import dataclass

import pytest
import torch

from sdstoolkit import following, jobs, runs
from sdstoolkit._files import sha256
from sdstoolkit.canvas import Canvas
from sdstoolkit.images import read_image
from sdstoolkit.jobs import Failed, Job, parse_seeds
from sdstoolkit.optimization import Step

OPTIONS = {"prompt": "a heart [ 1, 2 ] \n “ü”", "steps": 5, "lr": None}


def job(out, seeds=(0, 1), **changed) -> Job:
    return Job(out, command="optimize", options=OPTIONS | changed, seeds=seeds)


def fill(out, seeds=(0, 1), state="done", **changed) -> Job:
    with job(out, seeds, **changed) as made:
        for seed in made.todo:
            made.keep(
                seed, torch.full((3, 4, 4), seed / 10), state=state, steps=5, loss=[0.5, None]
            )
    return made


def manifest(out) -> dict:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def assert_truthful(out) -> None:
    """Every file is described, and every description that is final has its file."""
    record = manifest(out)
    entries = {e["file"]: e for e in (*record["seeds"].values(), *record["outputs"].values())}
    files = {path.name for path in out.iterdir()} - {"manifest.json"}
    assert files == set(entries)
    assert all(sha256(out / name) == entry["sha256"] for name, entry in entries.items())


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", (0,)),
        ("0-3,7", (0, 1, 2, 3, 7)),
        (" 5 - 6 , 2", (5, 6, 2)),
        ("4-4", (4,)),
        ("1234567", (1234567,)),
    ],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "could not be read"),
        (",", "could not be read"),
        ("0,", "could not be read"),
        ("-1", "could not be read"),
        ("1-2-3", "could not be read"),
        ("a", "could not be read, expected for example '0-3,7'"),
        ("1.5", "could not be read"),
        ("²", "could not be read"),
        ("3-1", "run backwards in '3-1', expected 1-3"),
        ("0-3,2", "name a seed twice"),
        ("0-99999999999", "more than 1000000"),
    ],
)
def test_seeds_that_cannot_be(text, match):
    with pytest.raises(ValueError, match=match):
        parse_seeds(text)


def test_a_new_folder_is_made_only_when_the_run_begins(tmp_path):
    out = tmp_path / "a" / "b"
    planned = job(out)
    assert planned.todo == (0, 1) and not (tmp_path / "a").exists()
    fill(out)
    assert_truthful(out)


def test_what_a_manifest_says(tmp_path):
    with job(tmp_path, seeds=(3,)) as run:
        run.note(device="cpu")
        with run.timed("optimize"):
            run.keep(3, torch.zeros(1, 1, 4, 4), state="done", steps=5, loss=[1.0])
        with run.file("grid.png") as draft:
            draft.write_bytes(b"grid")
    record = manifest(tmp_path)
    assert record["command"] == "optimize" and record["options"] == OPTIONS
    entry = record["seeds"]["3"]
    assert entry["file"] == "000003.png" and entry["sha256"] == sha256(tmp_path / "000003.png")
    assert entry["state"] == "done" and entry["steps"] == 5 and entry["loss"] == [1.0]
    assert record["outputs"]["grid.png"]["sha256"] == sha256(tmp_path / "grid.png")
    (ran,) = record["runs"]
    assert ran["state"] == "done" and ran["device"] == "cpu"
    assert ran["versions"]["torch"] == torch.__version__
    assert 0 <= ran["seconds"]["optimize"] <= ran["seconds"]["total"]
    assert run.read(3).shape == (1, 1, 4, 4)
    assert_truthful(tmp_path)


def test_a_manifest_is_written_for_people_too(tmp_path):
    fill(tmp_path)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert '"loss": [0.5, null]' in text and "“ü”" in text
    assert max(map(len, text.splitlines())) < 120


def test_the_same_options_resume(tmp_path):
    fill(tmp_path, seeds=(0,))
    before = (tmp_path / "000000.png").stat().st_mtime_ns
    more = job(tmp_path, seeds=(0, 1, 2))
    assert more.todo == (1, 2) and list(more.batches(1)) == [(1,), (2,)]
    fill(tmp_path, seeds=(0, 1, 2))
    assert (tmp_path / "000000.png").stat().st_mtime_ns == before
    assert job(tmp_path, seeds=(0, 1, 2)).todo == ()
    assert [run["state"] for run in manifest(tmp_path)["runs"]] == ["done", "done"]
    assert_truthful(tmp_path)


def test_what_is_missing_or_was_interrupted_is_made_again(tmp_path):
    fill(tmp_path, seeds=(0,), state="interrupted")
    fill(tmp_path, seeds=(1,), state="frozen")
    fill(tmp_path, seeds=(2, 3))
    (tmp_path / "000003.png").unlink()
    assert job(tmp_path, seeds=(0, 1, 2, 3)).todo == (0, 3)
    fill(tmp_path, seeds=(0, 1, 2, 3))
    assert_truthful(tmp_path)


def test_a_run_that_was_cut_off_at_its_first_write_is_begun_again(tmp_path):
    (tmp_path / ".manifest.json.0123abcd").write_text('{"comm')
    assert job(tmp_path).todo == (0, 1)


def snapshot(folder) -> dict:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(out, match, **changed) -> None:
    before = snapshot(out.parent)
    with pytest.raises(ValueError, match=match) as caught:
        job(out, **changed)
    assert out.name in str(caught.value) and "\n" not in str(caught.value)
    assert snapshot(out.parent) == before


def test_other_options_are_refused_and_named(tmp_path):
    out = tmp_path / "run"
    fill(out)
    refused(out, "its steps is 5, not 6", steps=6)
    refused(out, "its scale is None, not 3.0", scale=3.0)
    with pytest.raises(ValueError, match="of optimize, not of edit"):
        Job(out, command="edit", options=OPTIONS, seeds=(0,))


def test_foreign_folders_are_refused(tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"precious")
    refused(out, "not empty and no run's")
    for text in (
        "",
        "[]",
        "{}",
        '{"command": "optimize"}',
        "\udcff",
        '{"command": 1, "options": 2}',
    ):
        (out / "manifest.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        refused(out, "not the manifest of a run")
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "is a file, expected a folder")
    refused(tmp_path / "file" / "below", "cannot be made")


def test_an_image_that_was_changed_is_not_overwritten(tmp_path):
    out = tmp_path / "run"
    fill(out)
    (out / "000001.png").write_bytes(b"retouched by hand")
    refused(out, "000001.png' is not the file that manifest.json describes")
    (out / "000001.png").unlink()
    (out / "000007.png").write_bytes(b"not ours")
    refused(out, "000007.png' is not the file", seeds=(7,))


def test_an_output_that_was_changed_is_not_overwritten(tmp_path):
    out = tmp_path / "run"
    with job(out) as run, run.file("grid.png") as draft:
        draft.write_bytes(b"grid")
    (out / "grid.png").write_bytes(b"retouched by hand")
    refused(out, "grid.png' is not the file")
    (out / "grid.png").unlink()
    with pytest.raises(Failed, match="strip.png"), job(out) as run:
        (out / "strip.png").write_bytes(b"put there meanwhile")
        with run.file("strip.png") as draft:
            draft.write_bytes(b"strip")
    assert (out / "strip.png").read_bytes() == b"put there meanwhile"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_unwritable_folders(tmp_path):
    out = tmp_path / "locked"
    out.mkdir()
    out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        refused(out, "not writable")
        with pytest.raises(ValueError, match="cannot be made: .* is not writable"):
            job(out / "below")
    finally:
        out.chmod(stat.S_IRWXU)


def test_unwritable_folders_as_the_system_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(tmp_path, "not writable")
    with pytest.raises(ValueError, match="cannot be made: .* is not writable"):
        job(tmp_path / "below")


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(28, "No space left"), MemoryError()])
def test_an_error_on_the_way_is_a_failure_and_keeps_what_was_made(tmp_path, error):
    with pytest.raises(Failed, match="what was made is kept in"), job(tmp_path) as run:
        run.keep(0, torch.zeros(3, 4, 4), state="done", steps=5)
        raise error
    assert manifest(tmp_path)["runs"][0]["state"] == "failed"
    assert job(tmp_path).todo == (1,)
    assert_truthful(tmp_path)


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), job(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), job(tmp_path):
        raise KeyboardInterrupt
    assert [run["state"] for run in manifest(tmp_path)["runs"]] == ["failed", "interrupted"]


@pytest.mark.parametrize("again", [False, True], ids=["new", "in place of an interrupted one"])
@pytest.mark.parametrize("call", range(12))
def test_a_power_cut_at_any_moment_leaves_a_folder_that_resumes(
    tmp_path, monkeypatch, call, again
):
    """Every write and every rename is one on which the machine may stop."""

    class PowerCut(BaseException):
        pass

    if again:
        fill(tmp_path, state="interrupted")
    calls = 0
    replace = os.replace

    def cut(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls > call:
            raise PowerCut
        return replace(*arguments, **named)

    monkeypatch.setattr("pathlib.Path.replace", cut)
    try:
        fill(tmp_path)
    except PowerCut:
        pass
    monkeypatch.undo()
    kept = {seed: job(tmp_path).path(seed) for seed in (0, 1) if seed not in job(tmp_path).todo}
    assert all(read_image(path).shape == (1, 3, 4, 4) for path in kept.values())
    fill(tmp_path)
    assert job(tmp_path).todo == ()
    assert_truthful(tmp_path)


# --- following an optimisation ---------------------------------------------------------------


class Fading(Canvas):
    """A canvas whose image is the number of steps done, and whose loss falls."""

    def __init__(self, seeds, total: int) -> None:
        torch.nn.Module.__init__(self)
        self.seeds, self.n, self.total, self.done = seeds, len(seeds), total, 0
        self.frozen: dict[int, int] = {}
        self.broken: set[int] = set()

    def image(self) -> torch.Tensor:
        level = torch.full((self.n, 3, 4, 4), self.done / self.total)
        for row, seed in enumerate(self.seeds):
            if seed in self.frozen:
                level[row] = self.frozen[seed] / self.total
            if seed in self.broken:
                level[row] = torch.nan
        return level

    def steps(self, stop_at: int | None = None, freeze=None, break_at=None):
        for index in range(self.total):
            if index == stop_at:
                raise KeyboardInterrupt
            self.done += 1
            self.frozen |= {seed: at for seed, at in (freeze or {}).items() if at <= index}
            self.broken |= {seed for seed, at in (break_at or {}).items() if at <= index}
            values = [torch.nan if s in self.frozen else 1 / self.done for s in self.seeds]
            alive = torch.tensor([seed not in self.frozen for seed in self.seeds])
            frozen = dict(self.frozen)
            yield Step(
                index=index,
                steps=self.total,
                values=torch.tensor(values),
                t=None,
                alive=alive,
                frozen=frozen,
                canvas=self,
            )


def follow(out, total=100, seeds=(4, 9), **events):
    told = []
    canvas = Fading(seeds, total)
    with job(out, seeds=seeds) as run:
        run.follow(canvas, canvas.steps(**events), total=total, tell=lambda *say: told.append(say))
    return run, told


def test_follow_keeps_images_looks_and_losses(tmp_path):
    run, told = follow(tmp_path)
    assert job(tmp_path, seeds=(4, 9)).todo == ()
    assert torch.equal(run.read(9), torch.ones(1, 3, 4, 4))
    looks = read_image(tmp_path / "000009-steps.png")
    assert looks.shape == (1, 3, 4 + 2 * 2, 8 * (4 + 2) + 2)
    shades = (looks[0, 0, 4, 4::6] * 100).round().tolist()
    assert shades == [0, 15, 29, 43, 58, 72, 86, 100]
    assert len(told) == 100 and told[0] == (2, None) and told[1] == (2, 0.5)
    loss = manifest(tmp_path)["seeds"]["4"]["loss"]
    assert len(loss) == 50 and loss[0] == 0.5 and loss[-1] == 0.01
    assert_truthful(tmp_path)


@pytest.mark.parametrize("total", [1, 2, 7, 49, 51, 300])
def test_follow_reads_at_most_so_often(tmp_path, total):
    _, told = follow(tmp_path, total=total)
    loss = manifest(tmp_path)["seeds"]["4"]["loss"]
    assert min(total, 50) <= len(loss) <= 99 and len(told) == total
    assert len(loss) == len(
        range(following.reading_period(total), total + 1, following.reading_period(total))
    )
    width = read_image(tmp_path / "000009-steps.png").shape[-1]
    assert (width - 2) // 6 == min(total, 7) + 1


def test_follow_keeps_what_an_interrupt_leaves(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        follow(tmp_path, stop_at=60)
    record = manifest(tmp_path)
    assert record["seeds"]["4"]["state"] == "interrupted" and record["seeds"]["4"]["steps"] == 60
    assert read_image(tmp_path / "000004.png").unique().tolist() == pytest.approx([0.6], abs=1e-6)
    assert record["runs"][0]["state"] == "interrupted"
    assert_truthful(tmp_path)
    follow(tmp_path)
    assert manifest(tmp_path)["seeds"]["4"]["state"] == "done"


def test_follow_keeps_an_interrupt_before_the_first_step(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        follow(tmp_path, stop_at=0)
    assert manifest(tmp_path)["seeds"]["4"]["steps"] == 0
    assert_truthful(tmp_path)


def test_a_seed_that_stops_is_final_and_named_and_the_others_go_on(tmp_path, capsys):
    run, _ = follow(tmp_path, freeze={9: 50})
    record = manifest(tmp_path)
    assert record["seeds"]["9"]["state"] == "frozen" and record["seeds"]["9"]["steps"] == 50
    assert record["seeds"]["9"]["loss"][-1] is None
    assert record["seeds"]["4"]["state"] == "done"
    assert run.report() == 1
    assert "seed 9 stopped at step 50" in capsys.readouterr().out
    assert job(tmp_path, seeds=(4, 9)).todo == ()
    assert job(tmp_path, seeds=(4,)).report() == 0


def test_an_image_that_stops_being_finite_is_kept_as_it_last_was(tmp_path):
    """As where a decoder overflows in half precision: the parameters are finite still."""
    run, _ = follow(tmp_path, break_at={9: 50})
    record = manifest(tmp_path)
    assert record["seeds"]["9"]["state"] == "frozen" and record["seeds"]["9"]["steps"] == 43
    assert run.read(9).unique().tolist() == pytest.approx([110 / 255])
    assert record["seeds"]["4"]["state"] == "done"


def test_an_image_that_is_not_finite_at_the_start_is_a_failure(tmp_path):
    canvas = Fading((0,), 10)
    canvas.broken = {0}
    with pytest.raises(Failed, match="seed 0 is not finite"), job(tmp_path, seeds=(0,)) as run:
        run.follow(canvas, canvas.steps(), total=10)
    assert canvas.done == 0
    assert_truthful(tmp_path)


def test_an_interrupt_within_a_step_is_no_frozen_seed(tmp_path):
    """It may come between an update that is not finite and its being taken back."""
    canvas = Fading((4, 9), 100)

    def steps():
        for step in canvas.steps():
            if step.index == 59:
                canvas.broken = {9}
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt), job(tmp_path, seeds=(4, 9)) as run:
        run.follow(canvas, steps(), total=100)
    assert {e["state"] for e in manifest(tmp_path)["seeds"].values()} == {"interrupted"}


def test_a_failed_write_does_not_make_an_interrupted_image_final(tmp_path, monkeypatch):
    fill(tmp_path, seeds=(0,), state="interrupted")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "write_image", full)
    with pytest.raises(Failed, match="No space"):
        fill(tmp_path, seeds=(0,))
    assert manifest(tmp_path)["seeds"]["0"]["state"] == "interrupted"
    assert job(tmp_path, seeds=(0,)).todo == (0,)
    assert_truthful(tmp_path)


def test_what_is_made_of_all_images_is_made_after_a_run_that_was_cut_off(tmp_path):
    @dataclass
    class Options:
        out: str
        seeds: str = "0-1"

    calls = []

    def make(job, options):
        calls.append(len(job.mine))
        with job:
            for seeds in job.batches(2):
                for seed in seeds:
                    job.keep(seed, torch.zeros(1, 3, 4, 4), state="done", steps=1)
            if len(calls) == 1:
                raise KeyboardInterrupt
            if job.gather():
                job.write("grid.png", torch.zeros(3, 4, 8))

    asked = Options(str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        runs.run(asked, make, command="t")
    assert not (tmp_path / "run" / "grid.png").exists()
    for _ in range(2):
        assert runs.run(asked, make, command="t") == 0
        assert (tmp_path / "run" / "grid.png").exists()
        assert (tmp_path / "run" / "results.jsonl").exists()
    assert calls == [2, 0]  # nothing was made again, and the third run had nothing to do
