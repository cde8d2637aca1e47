"""What it costs to start: the import of the package, and the help of the command.

    python benchmarks/start_up.py [--rounds 15]

Every figure is the time of a whole process. The kinds are interleaved, so that whatever else the
machine does meets them alike, and medians are compared. Bounds: `import sdstoolkit` takes at most
1.15 of `import torch`, and `sds --help` at most 1.5 s. Writes docs/benchmarks/start_up.md and
leaves with exit code 1 where a bound is broken.
"""

import argparse
import statistics
import subprocess
import sys
import time

from report import machine, write_report

KINDS = {
    "nothing": "pass",
    "import torch": "import torch",
    "import sdstoolkit": "import sdstoolkit",
    "import sdstoolkit, and load, SDS, Pixels, optimize of it": (
        "from sdstoolkit import SDS, Pixels, load, optimize"
    ),
    "sds --help": "from sdstoolkit.cli import main; main(['--help'])",
    "sds optimize --help": "from sdstoolkit.cli import main; main(['optimize', '--help'])",
}
LONGEST_RATIO = 1.15
LONGEST_HELP = 1.5


def seconds(code: str) -> float:
    """The time of a process that runs some code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="processes of each kind")
    rounds = parser.parse_args().rounds
    seen: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for index in range(rounds + 1):
        for kind, code in KINDS.items():
            spent = seconds(code)
            if index:  # the first round only fills the file cache
                seen[kind].append(spent)
    median = {kind: statistics.median(spent) for kind, spent in seen.items()}
    torch = median["import torch"]
    ratio, helped = median["import sdstoolkit"] / torch, median["sds --help"]
    rows = [
        {
            "process": kind,
            "median": f"{median[kind]:.3f} s",
            "from": f"{min(seen[kind]):.3f} s",
            "to": f"{max(seen[kind]):.3f} s",
            "of `import torch`": f"{median[kind] / torch:.2f}",
        }
        for kind in KINDS
    ]
    kept = "kept", "broken"
    bounds = [
        {
            "bound": "`import sdstoolkit` over `import torch`",
            "at most": f"{LONGEST_RATIO}",
            "measured": f"{ratio:.2f}",
            "": kept[ratio > LONGEST_RATIO],
        },
        {
            "bound": "`sds --help`",
            "at most": f"{LONGEST_HELP} s",
            "measured": f"{helped:.3f} s",
            "": kept[helped > LONGEST_HELP],
        },
    ]
    title = f"Start-up: medians of {rounds} processes each, interleaved"
    write_report("start_up", title, {"Bounds": bounds, "Processes": rows}, machine())
    return int(ratio > LONGEST_RATIO or helped > LONGEST_HELP)


if __name__ == "__main__":
    raise SystemExit(main())
