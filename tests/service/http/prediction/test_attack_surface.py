"""Hostile bodies and parameters over HTTP: a 4xx, never a 5xx."""

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.http.schemas.v1 import ErrorResponse

pytestmark = pytest.mark.slow

BODY_TYPES = [
    "image/png",
    "text/plain",
    "application/json",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=x",
    'multipart/form-data; boundary="',
    "multipart/form-data; boundary=" + "x" * 200,
    "multipart/form-data; boundary=x; charset=undefined",
]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), kind=st.sampled_from(BODY_TYPES), query=st.text(max_size=20))
def test_no_body_type_or_parameter_makes_a_5xx(client: TestClient, body: bytes, kind: str, query: str) -> None:
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": kind}, params={"path": query})
    assert 400 <= answer.status_code < 500
    ErrorResponse.model_validate_json(answer.content)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.binary(max_size=40)), max_size=4))
def test_no_multipart_form_makes_a_5xx(client: TestClient, parts: list[tuple[str, str, bytes]]) -> None:
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(errors="replace"), file.encode(errors="replace"), data)
        for name, file, data in parts
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/predict", content=body + b"--x--\r\n", headers=headers)
    assert answer.status_code < 500


@pytest.mark.parametrize(
    "charset", ["utf-7", "unicode_escape", "raw_unicode_escape", "undefined", "utf-16", "zlib", ""]
)
@pytest.mark.parametrize(
    "name", [b"+2AA-.png", rb"\ud800.png", rb"\x.png", b"\xff\xfe.png", b"\xed\xa0\x80.png", b"a.png"]
)
def test_no_charset_or_file_name_makes_a_5xx(client: TestClient, png: bytes, charset: str, name: bytes) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="a"; filename="%s"\r\n\r\n%s\r\n--x--\r\n' % (name, png)
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = client.post("/v1/predict", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    assert result["name"].endswith("png")
    assert "label" in result


@pytest.mark.parametrize("item", [b"1", b'""', b"[]", b"{}"])
def test_a_million_json_values_are_refused_before_parsing(client: TestClient, item: bytes) -> None:
    body = b'{"images":[' + b",".join([item] * 1_000_000) + b"]}"
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")


def test_a_path_or_url_is_never_opened(client: TestClient, artifact_folder: object) -> None:
    for text in (str(artifact_folder), "file:///etc/passwd", "http://127.0.0.1:9/x.png"):
        encoded = base64.b64encode(text.encode()).decode()
        for images in ([text], [encoded]):
            answer = client.post("/v1/predict", json={"images": images})
            assert answer.status_code == 422
