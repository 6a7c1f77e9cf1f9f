"""Settings: sources, validation, documentation."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from models.errors import InputError
from service.http.settings import Settings, read_settings, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PLUMBLINE_{name.upper()}", raising=False)


def test_arguments_override_the_environment_which_overrides_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().port == 8000
    monkeypatch.setenv("PLUMBLINE_PORT", "9000")
    assert read_settings(port=None).port == 9000
    assert read_settings(port=9001).port == 9001


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"port": 70_000}, "port"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_queue_delay_ms": float("nan")}, "max_queue_delay_ms"),
        ({"unknown": 1}, "unknown"),
        ({"max_body_bytes": 2**40}, "could never be accepted"),
        ({"max_images_per_request": 5000}, "could never be accepted"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(given: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        read_settings(**given)


def test_unknown_variables_are_named_with_similar_settings() -> None:
    settings = {f"PLUMBLINE_{name.upper()}": "1" for name in Settings.model_fields}
    assert unknown_variables({**settings, "plumbline_port": "1", "PATH": "/bin", "NOT_PLUMBLINE_PORT": "1"}) == []
    assert unknown_variables({**settings, "PLUMBLINE_SERVICE_HOST": "10.0.0.1", "PLUMBLINE_API_KEY_FILE": "keys"}) == [
        "PLUMBLINE_API_KEY_FILE (did you mean PLUMBLINE_API_KEYS_FILE?)",
        "PLUMBLINE_SERVICE_HOST",
    ]


def test_every_setting_is_documented_with_its_variable() -> None:
    page = (Path(__file__).parents[3] / "docs" / "http-api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`PLUMBLINE_([A-Z0-9_]+)`", page))
    assert documented == {name.upper() for name in Settings.model_fields}
