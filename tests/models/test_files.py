"""Files are written whole or not at all, and a full disk is one message."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import files
from models.errors import InputError
from models.files import check_output_folder, readable, write_files, write_folder, write_json

BEFORE = {"a.txt": b"old", "b.txt": b"old", "c.txt": b"old"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


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


WRITER = """
import os, sys
from pathlib import Path
from models.files import replacing, write_folder
def content():
    print(partial.name, flush=True)
    sys.stdin.read()
    return b"half"
class Contents(dict):
    def items(self):
        yield "a", b""
        yield "b", content()
with replacing(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    write_folder(Path(sys.argv[2]), Contents())
"""


def test_the_temporary_files_of_a_killed_process_are_deleted_by_the_next_process(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.bin", tmp_path / "folder"
    kept = {".a.bin.settings": b"", ".a.bin.00000000.abcdefgh.partial": b"of another host"}
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        partial = tmp_path / writer.stdout.readline().strip()
        write_files(tmp_path, {"a.bin": b"one", "other": b""})
        assert partial.read_bytes() == b"half"  # its process is still writing
        write_folder(folder, {"a": b"one"})
        assert len(list(tmp_path.glob(".folder.*.staging/new/a"))) == 1
        writer.kill()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "new"), str(folder)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    assert contents(folder) == {"a": b"", "b": b"half"}
    assert not list(tmp_path.glob(".*.staging"))
    assert contents(tmp_path) == {"a.bin": b"one", "other": b"", "new": b"half", **kept}


def test_a_temporary_folder_that_cannot_be_deleted_does_not_fail_the_write(tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_folder(other, {"a": b"kept"})
    (tmp_path / f".folder.{files._HOST}.abcdefgh.staging").symlink_to(other)
    write_folder(tmp_path / "folder", {"a": b"one"})
    assert contents(tmp_path / "folder") == {"a": b"one"}
    assert contents(other) == {"a": b"kept"}


def test_a_folder_is_listed_once_and_need_not_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list[object]()

    def refused(path: object) -> Any:
        listed.append(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", refused)
        patched.setattr(os, "scandir", refused)
        for _ in range(2):
            write_files(tmp_path, BEFORE)
    assert len(listed) == 1
    assert contents(tmp_path) == BEFORE


def test_a_temporary_file_that_is_deleted_before_it_is_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = files.tempfile.mkstemp, list[str]()

    def then_deleted(**options: Any) -> tuple[int, str]:
        descriptor, name = make(**options)
        made.append(name)
        if len(made) == 1:
            Path(name).unlink()
        return descriptor, name

    monkeypatch.setattr(files.tempfile, "mkstemp", then_deleted)
    write_files(tmp_path, {"a": b"new"})
    assert (len(made), contents(tmp_path)) == (2, {"a": b"new"})


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
