"""The README does what it says: its Python runs as it stands, its commands and links exist."""

import importlib.util
import re
from pathlib import Path

import pytest

from sdstoolkit import cli
from sdstoolkit.adapters import names

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
SETUP = re.findall(r"^<!-- ci: (\w+) -->\n```bash\n(.*?)\n```$", TEXT, re.MULTILINE)


@pytest.mark.skipif("shapes" not in names(), reason="the bundled model is not there")
def test_the_python_runs_verbatim(tmp_path, monkeypatch, capsys):
    """All blocks, one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), space)
    made = {"heart.png", "denoised.png", "blue.png"}
    assert {p.name for p in tmp_path.iterdir()} == made
    assert capsys.readouterr().out.startswith("0 ")


def test_two_commands_do_all_the_set_up():
    assert [name for name, _ in SETUP] == ["image", "tests"]
    for _, line in SETUP:
        assert "\n" not in line and line.startswith("python3 -m venv .venv && .venv/bin/pip")
        assert "-c constraints.txt" in line
    assert TEXT.count("pip install") == 2


def test_every_command_can_be_read(monkeypatch):
    """What the README writes after `sds` is taken by the command as it is today."""
    import shlex

    read = []
    monkeypatch.setattr(cli, "launch", lambda options, run, **words: read.append(words) or 0)
    commands = re.findall(r"^sds .*$", TEXT, re.MULTILINE)
    commands += [line.partition(".venv/bin/")[2].rpartition("/")[2] for _, line in SETUP[:1]]
    assert len(commands) >= 3
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0
    monkeypatch.undo()
    for words in read:
        if "--help" not in words["argv"]:
            options = cli._plugins.find(cli.VERBS, words["verb"]).Options
            assert isinstance(cli._parse(options, words["argv"], "sds"), options)


@pytest.mark.parametrize("name", ["README.md", "docs/choosing.md", "docs/scaling.md"])
def test_the_tables_are_those_of_the_code(name, monkeypatch):
    """Those of memory are also held against counts that others have published."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    if name == "docs/scaling.md":
        found = tables.memory.counts()
        for what, parameters in tables.memory.PUBLISHED.items():
            assert found[what][0][0] == parameters, what
        tables.PAGES[name] = {"memory": lambda: tables.memory.table(found)}
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("<!-- begin: ") == len(tables.PAGES[name])
    assert tables.filled(text, tables.PAGES[name]) == text, "run: python benchmarks/tables.py"


@pytest.mark.parametrize("name", ["README.md", "docs/design.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{name} links to {link}, which is not there"
