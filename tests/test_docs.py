"""The pages of the guide do what they say: their Python runs, one block after the other.

Where a page takes many steps it takes few here; `FEWER` says which, and must find them.
"""

import re
from pathlib import Path

import pytest

from sdstoolkit.adapters import names

DOCS = Path(__file__).parent.parent / "docs"
FEWER = {
    "quickstart.md": (("steps=300", "steps=3"), ("steps=30", "steps=2"), ("steps=20", "steps=6")),
    "renderer.md": (("steps = 300", "steps = 3"),),
    "extending.md": (),
    "conventions.md": (),
}
PAGES = ["index", "quickstart", "renderer", "extending", "conventions", "scaling"]
PAGES += ["troubleshooting", "scores", "flow", "restore"]


@pytest.mark.skipif("shapes" not in names(), reason="the bundled model is not there")
@pytest.mark.parametrize("page", FEWER)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks)
    for much, little in FEWER[page]:
        assert much in code
        code = code.replace(much, little)
    space: dict = {"__name__": "page"}
    exec(compile(code, page, "exec"), space)
    said = capsys.readouterr().out
    if page == "quickstart.md":
        assert said.rstrip().endswith("5")
        assert {p.name for p in tmp_path.iterdir()} == {"hearts.png", "edited.png"}
    if page == "renderer.md":
        assert (tmp_path / "solid.png").exists() and space["solid"].colour.grad.abs().max() > 0
    if page == "conventions.md":  # every number printed there is a difference that is none
        assert all(float(x) < 1e-4 for x in re.findall(r"tensor\(([-\d.e+]+)", said))
        assert len(re.findall(r"tensor\(", said)) == 3


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_guide_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{page}.md").read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), f"{page}.md links to {link}, which is not there"


def test_the_navigation_names_every_page():
    config = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8").split()
    for page in DOCS.glob("*.md"):
        assert page.name in config, f"mkdocs.yml does not know docs/{page.name}"
