"""Files are written whole or not at all, and a full disk is one message."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from models import files
from models.errors import InputError
from models.files import check_output_folder, readable, write_files, write_json

BEFORE = {"a.txt": b"old", "b.txt": b"old", "c.txt": b"old"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, BEFORE)
    return tmp_path


def failing(function: Any, *, after: int) -> Any:
    """`function`, whose calls end with a full disk after that many."""
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args, **options)

    return call


def test_files_are_replaced_made_and_deleted(folder: Path) -> None:
    write_files(folder / "sub", {"x": "é", "never": None})
    assert contents(folder / "sub") == {"x": "é".encode()}
    (folder / "sub" / "x").unlink()
    (folder / "sub").rmdir()
    write_files(folder, {"a.txt": b"new", "b.txt": None, "d.txt": "caf\udce9"})
    assert contents(folder) == {"a.txt": b"new", "c.txt": b"old", "d.txt": rb"caf\xe9"}
    assert stat.S_IMODE((folder / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize(("name", "after"), [("fsync", 0), ("fsync", 1), ("fsync", 2), ("mkstemp", 1), ("replace", 0)])
def test_a_full_disk_leaves_the_old_files_and_names_the_remedy(
    folder: Path, name: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = {"fsync": os, "mkstemp": files.tempfile, "replace": Path}[name]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), after=after))
    with pytest.raises(InputError, match=r"cannot write to .*No space left on device; free space there"):
        write_files(folder, {"a.txt": b"new", "b.txt": b"new", "c.txt": None, "d.txt": b"new"})
    assert contents(folder) == BEFORE


def test_an_output_folder_is_checked_by_writing_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file"):
        check_output_folder(tmp_path / "file" / "folder")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, after=0))
    with pytest.raises(InputError, match="No space left on device"):
        check_output_folder(tmp_path / "new")


def test_names_that_are_not_utf_8_become_readable(tmp_path: Path) -> None:
    assert readable(os.fsdecode(b"caf\xe9/\xff")) == r"caf\xe9/\xff"
    assert readable("photos/été ×") == "photos/été ×"
    assert readable("a\ud800b") == r"a\ud800b"  # not of a file
    write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "x": 1\n}\n'
