import sys
from pathlib import Path

import pytest

from sdstoolkit._plugins import find, names


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "methods_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text('SHARED = ("weights",)\n')
    for name in ("sds", "csd", "base", "weights", "_private"):
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (folder / "broken.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_a_file_is_a_plugin(package: str) -> None:
    assert names(package) == ["broken", "csd", "sds"]  # sorted, and nothing was imported
    assert f"{package}.csd" not in sys.modules
    assert find(package, "csd").NAME == "csd"


@pytest.mark.parametrize("name", ["vsd", "base", "_private", "weights", "../sds", ""])
def test_unknown_names_say_what_there_is(package: str, name: str) -> None:
    with pytest.raises(ValueError, match="broken, csd, sds"):
        find(package, name)
