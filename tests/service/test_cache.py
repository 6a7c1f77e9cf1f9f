"""Keys of an evaluation's cache follow the code that decides what is kept."""

import sys
from pathlib import Path

import pytest

from service.cache import code_closure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Modules that import each other in every way that Python has, beside one that none imports."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "first.py").write_text("import closed.second\nfrom closed import third\nimport json\n")
    (folder / "second.py").write_text("def late():\n    from closed.fourth import number\n    return number\n")
    (folder / "third.py").write_text("import closed.first\n")
    (folder / "fourth.py").write_text("number = 1\n")
    (folder / "apart.py").write_text("number = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("service.cache._OURS", ("closed",))
    for name in [each for each in sys.modules if each.partition(".")[0] == "closed"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


@pytest.mark.parametrize("name", ["first", "second", "third", "fourth"])
def test_a_change_anywhere_below_a_module_is_seen(name: str, package: Path) -> None:
    before = code_closure("closed.first")
    assert code_closure("closed.first") == before
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "# other\n")
    assert code_closure("closed.first") != before


def test_code_that_is_not_imported_does_not_count(package: Path) -> None:
    before = code_closure("closed.first")
    (package / "apart.py").write_text("number = 3\n")
    assert code_closure("closed.first") == before


def test_features_depend_on_hooks_and_residues() -> None:
    assert (
        code_closure("models.features.extraction")
        != code_closure("models.residuals.recording.recording")
        != code_closure("models.residuals.hooks")
    )
