"""The log as JSON: each record is one valid line."""

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.http.observability.logs import JsonFormatter, set_up_logging
from service.http.settings import Settings
from tests.service.http.server.test_app import inference_of


@pytest.fixture
def written() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines that the server's loggers have written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("plumbline", "plumbline.access")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel("INFO")
    loggers[1].propagate = False
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def test_the_access_log_has_one_valid_line_per_request(
    client: TestClient, written: Callable[[], list[dict[str, Any]]], png: bytes
) -> None:
    client.post("/v1/predict", content=png, headers={"X-Request-ID": "mine-1"})
    client.post("/v1/models/model/predict", content=png)
    client.get(
        '/nowhere%0a{"level":"critical"}%0d%0a%e2%80%a8?%0a', headers={"X-Request-ID": '"}x', "User-Agent": "\t"}
    )
    client.post("/v1/predict", files={'a"\n{}': ('b"\n{}\\', png)})
    lines = [line for line in written() if line["logger"] == "plumbline.access"]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "/v1/predict", 200),
        ("POST", "/v1/models/{model}/predict", 200),
        ("GET", "unmatched", 404),
        ("POST", "/v1/predict", 200),
    ]
    assert lines[0]["request_id"] == "mine-1"
    assert "mine-1" in lines[0]["message"]
    assert len({line["request_id"] for line in lines}) == 4
    assert [line["model"] for line in lines] == ["model", "model", None, "model"]
    for line in lines:
        assert line["level"] == "info"
        assert line["ms"] > 0
        assert line["time"].endswith("+00:00")


def test_an_exception_is_a_field_of_its_line(
    client: TestClient, written: Callable[[], list[dict[str, Any]]], png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError('first\nsecond "third"\r\n\u2028')

    monkeypatch.setattr(inference_of(client), "score", fail)
    answer = client.post("/v1/predict", content=png, headers={"X-Request-ID": "mine-2"})
    assert answer.status_code == 500
    [line] = [line for line in written() if line["level"] == "error"]
    assert line["message"] == "request mine-2 failed"
    assert 'RuntimeError: first\nsecond "third"' in line["exception"]
    assert "Traceback" in line["exception"]


# Including lone surrogates, which file names may have.
texts = st.text(st.characters(exclude_categories=()), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, database=None)
@given(texts, values)
def test_any_record_is_one_line_of_json(message: str, value: Any) -> None:
    record = logging.LogRecord("plumbline.x", logging.WARNING, __file__, 1, "said %s", (message,), None)
    record.given = value
    line = JsonFormatter().format(record)
    assert line.splitlines() == [line]
    fields = json.loads(line)
    assert (fields["level"], fields["logger"]) == ("warning", "plumbline.x")
    assert fields["message"].startswith("said ")
    if not any("\ud800" <= character <= "\udfff" for character in message):
        assert fields["message"] == f"said {message}"
    assert "given" in fields
    if isinstance(value, str | bool | None) and isinstance(fields["given"], type(value)):
        assert fields["given"] == value or not str(value).isprintable()


@pytest.mark.parametrize("value", [2**70, "\udc80.png", {"path": Path("\udc80")}, math.inf, object()])
def test_values_without_a_json_type_become_text(value: Any) -> None:
    record = logging.LogRecord("plumbline.x", logging.INFO, __file__, 1, "said", None, None)
    record.given = value
    assert json.loads(JsonFormatter().format(record))["message"] == "said"


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("access_log", [True, False])
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_settings_select_format_and_level(
    capsys: pytest.CaptureFixture[str], log_format: str, access_log: bool
) -> None:
    set_up_logging(Settings(log_format=log_format, log_level="warning", access_log=access_log))  # type: ignore[arg-type]
    logging.getLogger("plumbline.guard").info("too small")
    logging.getLogger("plumbline.guard").warning("large enough")
    logging.getLogger("uvicorn.error").error("theirs")
    logging.getLogger("plumbline.access").info("a request")
    logging.getLogger("a.library").info("not logged")
    logging.getLogger("a.library").warning("a library's")
    lines = capsys.readouterr().err.splitlines()
    said = [json.loads(line)["message"] if log_format == "json" else line.partition(": ")[2] for line in lines]
    assert said == ["large enough", "theirs", *(["a request"] if access_log else []), "a library's"]


@pytest.mark.usefixtures("logging_as_before")
def test_python_warnings_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(Settings(log_format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware", stacklevel=1)
    [line] = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert (fields["level"], fields["logger"]) == ("warning", "py.warnings")
    assert "beware" in fields["message"]
