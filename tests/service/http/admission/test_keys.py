"""API keys: validity, and reload of a changed file."""

from pathlib import Path

import pytest

from models.errors import InputError
from service.http.admission.keys import ApiKeys
from service.http.errors import HttpError

OLD, NEW = "the-old-key-0123456789", "the-new-key-9876543210"


def accepts(keys: ApiKeys, key: bytes) -> bool:
    try:
        keys.check({"headers": [(b"x-api-key", key)]})
    except HttpError:
        return False
    return True


def test_only_known_keys_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# two of them\n\n{OLD}\n  {NEW}  \n")
    keys = ApiKeys(path)
    assert accepts(keys, OLD.encode())
    assert accepts(keys, NEW.encode())
    for other in (b"", OLD[:-1].encode(), (OLD + "x").encode(), b"# two of them", OLD.upper().encode()):
        assert not accepts(keys, other)


def test_a_byte_order_mark_is_not_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n", encoding="utf-8-sig")
    assert accepts(ApiKeys(path), OLD.encode())


def test_a_changed_file_is_reloaded_within_a_second(tmp_path: Path) -> None:
    path, time = tmp_path / "keys", [0.0]
    path.write_text(OLD)
    keys = ApiKeys(path, now=lambda: time[0])
    replacement = tmp_path / "replacement"
    replacement.write_text(NEW)
    replacement.replace(path)
    assert accepts(keys, OLD.encode())
    time[0] = 1.5
    assert accepts(keys, NEW.encode())
    assert not accepts(keys, OLD.encode())


@pytest.mark.parametrize("broken", [None, "", "short", b"\xff\xfe"])
def test_an_invalid_changed_file_leaves_the_keys_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | bytes | None
) -> None:
    path, time = tmp_path / "keys", [0.0]
    path.write_text(OLD)
    keys = ApiKeys(path, now=lambda: time[0])
    path.unlink()
    if broken is not None:
        path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    time[0] = 1.5
    assert accepts(keys, OLD.encode())
    assert "the API keys were not reloaded" in caplog.text
    assert OLD not in caplog.text


@pytest.mark.parametrize("content", [None, b"", b"# only a comment\n", b"too-short\n", b"\xff\xfe\n"])
def test_an_invalid_file_is_refused_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="API key"):
        ApiKeys(path)
