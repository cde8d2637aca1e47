"""Tables of the benchmarks, printed and written to docs/benchmarks/ with command and machine."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

REPORTS = Path(__file__).parents[1] / "docs" / "benchmarks"


def machine() -> str:
    """The machine in one line: processor, cores in use, system, Python, torch."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{cpu}, {torch.get_num_threads()} threads, {device}, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows with the same columns."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(
        [*lines, *("| " + " | ".join(str(row[k]) for k in head) + " |" for row in rows)]
    )


def per_cent(right: "Tensor") -> str:
    """The share of what is right, bool [n], with its binomial standard error."""
    p = float(right.float().mean())
    return f"{100 * p:.1f} ± {100 * (p * (1 - p) / len(right)) ** 0.5:.1f}"


def write_report(
    name: str, title: str, tables: Mapping[str, Sequence[Mapping[str, str]]], where: str
) -> None:
    """Print the tables and write docs/benchmarks/NAME.md."""
    command = "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    parts = [f"# {title}", f"`{command}`, {date.today():%Y-%m-%d}, on {where}."]
    for heading, rows in tables.items():
        parts += [f"## {heading}", table(rows)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / f"{name}.md").write_text(text, encoding="utf-8")
