"""How well an NCSN knows handwritten digits: its draws, its denoising, its sense of the odd.

    python benchmarks/digits.py [--steps 3000] [--draws 200]

Trains it (minutes of one core), lets an independent classifier read the draws, and writes
docs/benchmarks/digits.md and docs/images/digits.png.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from report import machine, write_report

from sdstoolkit.studies.digits import pictures, study
from sdstoolkit.toy.digits import STEPS, digits, train_digits

RUNS, PICTURES = (Path(__file__).parents[1] / name for name in ("runs", "docs/images"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--draws", type=int, default=200)
    args = parser.parse_args()
    learnt, kept = digits()
    file = RUNS / f"digits-{args.steps}.safetensors"
    model, history = train_digits(learnt, steps=args.steps, checkpoint=file)
    found = study(model, learnt, kept, draws=args.draws)
    rows = [{"steps": str(args.steps), "training": f"{history.seconds:.0f} s"}]
    write_report("digits", "An NCSN of digits", {"Training": rows, **found.tables}, machine())
    names = {"digits.png": "digits.png", "annealing.png": "digits_annealing.png"}
    pictures(lambda name: nullcontext(PICTURES / names[name]), model, found)


if __name__ == "__main__":
    main()
