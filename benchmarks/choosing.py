"""Write the table of docs/choosing.md anew, from what the losses say of themselves.

    python benchmarks/choosing.py
"""

from pathlib import Path

from sdstoolkit.distill.card import table

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"
BEGIN, END = "<!-- begin: losses -->", "<!-- end: losses -->"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
