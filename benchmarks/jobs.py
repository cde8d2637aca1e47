"""What a second process is worth, and what fifty kills cost.

    python benchmarks/jobs.py                      writes docs/benchmarks/jobs.md
    python benchmarks/jobs.py --seeds 4 --kills 2 --steps 6 --dry
    python benchmarks/jobs.py --parts kills        leaves the other table as it is

Throughput, which wants two idle cores: `sds optimize` on `shapes`, from the first step to the
last, by one process of one thread and by two of one thread each under torchrun; seeds a minute.
Kills: runs of four seeds, killed with SIGKILL at moments of a seeded die and started again until
they end, against one that nobody killed; four of five fall after the first file, one anywhere.
Every image that was finished must stay as it is, and the last images must have the same bits.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import REPORTS, machine, write_report

ROOT = Path(__file__).parent.parent
SPEED, KILLS = "Two processes against one", "Killed at random moments"
PROMPT = "a red heart on a white background"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(out: Path, *, seeds: int, steps: int, processes: int, every: int) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launcher += [str(processes)]
    words = [*launcher, str(ROOT / "pipelines" / "optimize.py"), PROMPT, "--out", str(out)]
    words += ["--seeds", f"0-{seeds - 1}", "--steps", str(steps), "--batch-size", "2"]
    return [*words, "--checkpoint-every", str(every), "--device", "cpu"]


def images(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.png")}


def final(out: Path) -> dict[str, str]:
    """The images that are finished, as the manifest tells, and their hashes on the disk."""
    path = out / "manifest.json"
    record = json.loads(path.read_text()) if path.exists() else {"seeds": {}}
    done = [e["file"] for e in record["seeds"].values() if e["state"] == "done"]
    found = images(out) if out.exists() else {}
    return {name: found[name] for name in done if name in found}


def throughput(folder: Path, processes: int, seeds: int, steps: int) -> tuple[float, float]:
    """Seeds a minute, without the start of Python, and the seconds of all."""
    out, begun = folder / f"speed-{processes}", time.perf_counter()
    line = command(out, seeds=seeds, steps=steps, processes=processes, every=0)
    subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True)
    total = time.perf_counter() - begun
    seconds = json.loads((out / "manifest.json").read_text())["runs"][0]["seconds"]
    return 60 * seeds / seconds["total"], total


def killed(folder: Path, kills: int, seeds: int, steps: int) -> dict[str, int]:
    """Kill, start again, and compare with what nobody killed."""
    sound, die = folder / "sound", random.Random(0)
    options = {"seeds": seeds, "steps": steps, "processes": 1, "every": max(1, steps // 10)}
    begun = time.perf_counter()
    subprocess.run(command(sound, **options), env=ENVIRONMENT, check=True, capture_output=True)
    whole, expected = time.perf_counter() - begun, images(sound)
    record = json.loads((sound / "manifest.json").read_text())
    work = record["runs"][0]["seconds"]["total"]
    finished: dict[str, str] = {}
    ended = landed = within = between = lost = differing = 0
    while True:
        out, anywhere = folder / f"killed-{ended}", die.random() < 0.2
        patience = die.random() * (whole if anywhere else work / 2)
        before = changed(out / "manifest.json")
        process = subprocess.Popen(
            command(out, **options),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not anywhere:
            while changed(out / "manifest.json") == before and process.poll() is None:
                time.sleep(0.02)
        try:
            process.wait(patience if landed < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        now = final(out)
        lost += sum(now.get(name) != digest for name, digest in finished.items())
        if process.returncode == -signal.SIGKILL:
            landed += 1
            within += (out / "manifest.json").exists()
            between += bool(now)
            finished = now
            print(f"kill {landed}: {len(now)} of {seeds} images finished", flush=True)
        elif process.returncode == 0:  # it came to its end: begin another
            ended, finished, found = ended + 1, {}, images(out)
            apart = {k for k in {*found, *expected} if found.get(k) != expected.get(k)}
            print(f"run {ended} ended, after {landed} kills; not as expected: {sorted(apart)}")
            differing += bool(apart)
            if landed >= kills:
                break
        else:
            raise SystemExit(f"a run ended with {process.returncode}")
    return {
        "SIGKILLs": landed,
        "of them after the folder was begun": within,
        "of them with images finished": between,
        "finished images lost or changed": lost,
        "runs that came to their end": ended,
        "of them not bit-identical": differing,
    }


def changed(file: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if it is not there."""
    return file.stat().st_mtime_ns if file.exists() else 0


def kept(heading: str) -> list[dict[str, str]] | None:
    """The rows of a table that an earlier run has written, None if there are none."""
    page = REPORTS / "jobs.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    found = re.search(rf"^## {re.escape(heading)}\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    if found is None:
        return None
    head, _, *rows = ([c.strip() for c in line.split("|")[1:-1]] for line in found[1].splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--parts", nargs="+", choices=("speed", "kills"), default=None)
    parser.add_argument("--dry", action="store_true", help="write no report")
    options = parser.parse_args()
    parts = options.parts or ("speed", "kills")
    tables: dict[str, list[dict[str, str]] | None] = {SPEED: kept(SPEED), KILLS: kept(KILLS)}
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in parts:
            one, _ = throughput(folder, 1, options.seeds, options.steps)
            two, _ = throughput(folder, 2, options.seeds, options.steps)
            head = "processes, of one thread each"
            tables[SPEED] = [
                {head: "1", "seeds a minute": f"{one:.1f}", "ratio": "1"},
                {head: "2", "seeds a minute": f"{two:.1f}", "ratio": f"{two / one:.2f}"},
            ]
        if "kills" in parts:
            found = killed(folder, options.kills, min(4, options.seeds), options.steps)
            tables[KILLS] = [{"what": what, "count": str(n)} for what, n in found.items()]
            wrong = found["finished images lost or changed"] + found["of them not bit-identical"]
    measured = {heading: rows for heading, rows in tables.items() if rows}
    if options.dry:
        print(measured)
    else:
        write_report("jobs", "Jobs", measured, machine())
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
