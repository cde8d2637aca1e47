"""What a second process is worth, and what fifty kills cost.

    python benchmarks/jobs.py                      writes docs/benchmarks/jobs.md
    python benchmarks/jobs.py --seeds 4 --kills 2 --steps 6 --dry

Throughput: `sds optimize` on `shapes`, from the first step to the last, by one process of one
thread and by two of one thread each under torchrun; seeds a minute. Kills: the same run, killed
with SIGKILL at moments of a seeded die until it has ended, against one that nobody killed; every
file that was finished must stay as it is, and the last images must have the same bits.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import machine, write_report

ROOT = Path(__file__).parent.parent
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


def killed(folder: Path, kills: int, seeds: int, steps: int) -> dict[str, object]:
    """Kill, start again, and compare with what nobody killed."""
    sound, out, die = folder / "sound", folder / "killed", random.Random(0)
    options = {"seeds": seeds, "steps": steps, "processes": 1, "every": max(1, steps // 10)}
    begun = time.perf_counter()
    subprocess.run(command(sound, **options), env=ENVIRONMENT, check=True, capture_output=True)
    whole = time.perf_counter() - begun
    finished: dict[str, str] = {}
    lost = landed = rounds = 0
    while landed < kills:
        rounds += 1
        process = subprocess.Popen(
            command(out, **options),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(die.uniform(0.5, 1.1) * whole / max(1, kills // 10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            landed += 1
        now = final(out)
        lost += sum(now.get(name) != digest for name, digest in finished.items())
        finished = now
        if process.returncode == 0 and landed < kills:  # it came to its end: begin another
            assert images(out) == images(sound)
            out, finished = folder / f"killed-{rounds}", {}
    subprocess.run(command(out, **options), env=ENVIRONMENT, check=True, capture_output=True)
    return {"kills": landed, "lost": lost, "same": images(out) == images(sound)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--dry", action="store_true", help="write no report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, _ = throughput(folder, 1, options.seeds, options.steps)
        two, _ = throughput(folder, 2, options.seeds, options.steps)
        found = killed(folder, options.kills, min(4, options.seeds), options.steps)
    speed = [
        {"processes, of one thread each": "1", "seeds a minute": f"{one:.1f}", "ratio": "1"},
        {
            "processes, of one thread each": "2",
            "seeds a minute": f"{two:.1f}",
            "ratio": f"{two / one:.2f}",
        },
    ]
    kills = [
        {
            "SIGKILLs": str(found["kills"]),
            "finished images lost or changed": str(found["lost"]),
            "the resumed run ends bit-identical": "yes" if found["same"] else "NO",
        }
    ]
    tables = {"Two processes against one": speed, "Killed at random moments": kills}
    if options.dry:
        print(tables)
    else:
        write_report("jobs", "Jobs", tables, machine())
    return int(bool(found["lost"]) or not found["same"])


if __name__ == "__main__":
    raise SystemExit(main())
