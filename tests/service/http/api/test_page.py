"""Files of the web page and the API description: content, security headers, example images."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from models.errors import InputError
from service.http.api.docs import OPEN_DOCS_PATHS, docs_router
from service.http.api.page import OPEN_PAGE_PATHS, page_router
from tests.images import encoded, noise

WEB = Path(__file__).resolve().parents[4] / "service" / "web"
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of two example images, one other file and one leftover of macOS."""
    made = tmp_path / "examples"
    made.mkdir()
    (made / "b.png").write_bytes(encoded(noise(rng)))
    (made / "a.JPG").write_bytes(encoded(noise(rng), "JPEG"))
    (made / "notes.txt").write_text("not for visitors")
    (made / "._b.png").write_bytes(b"resources")
    return made


@pytest.fixture
def page(folder: Path) -> Iterator[TestClient]:
    app = FastAPI(docs_url=None)
    app.include_router(page_router(examples=folder))
    app.include_router(docs_router())
    with ExitStack() as stack:
        yield stack.enter_context(TestClient(app))


def policy(client: TestClient, path: str) -> dict[str, str]:
    directives = client.get(path).headers["content-security-policy"].split(";")
    return dict(directive.strip().split(" ", 1) for directive in directives)


@pytest.mark.parametrize("path", sorted(OPEN_PAGE_PATHS | OPEN_DOCS_PATHS))
def test_every_open_path_is_a_file_with_its_type_and_security_headers(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    assert answer.content
    assert answer.headers["content-type"].startswith(TYPES[Path(path).suffix or ".html"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert page.head(path).headers["content-length"] == str(len(answer.content))
    again = page.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = page.get(path, headers={"If-None-Match": '"another", W/"' + answer.headers["etag"][2:]})
    assert other.status_code == 200


OF_ADMIN_PORT = {"operations.html", "operations.js", "rates.js", "review.html", "review.js"}


def test_every_file_of_the_folder_is_served() -> None:
    served = {Path(path).name for path in OPEN_PAGE_PATHS | OPEN_DOCS_PATHS}
    assert {path.name for path in WEB.iterdir()} - {"index.html", "docs.html"} - OF_ADMIN_PORT <= served


def test_the_policy_of_the_page_allows_only_its_own_files(page: TestClient) -> None:
    assert policy(page, "/") == STRICT


def test_the_policy_of_the_docs_adds_only_the_needs_of_swagger(page: TestClient) -> None:
    more = {"style-src": "'self' 'unsafe-inline'", "img-src": "'self' blob: data:"}
    assert policy(page, "/docs") == STRICT | more


@pytest.mark.parametrize("path", sorted(WEB.iterdir()), ids=lambda path: path.name)
def test_no_file_has_an_external_address_or_inline_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a namespace, not an address
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"[\"'(]//", text)
    assert "innerHTML" not in text
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_sufficient_contrast(scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (WEB / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    colour = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[("light", "dark").index(scheme)]))
    texts = [("text", "surface"), ("text", "ground"), ("soft", "surface"), ("soft", "ground"), ("accent", "surface")]
    texts += [("accent", "ground"), ("on-accent", "accent"), ("bad", "bad-ground"), ("good", "good-ground")]
    texts += [("bad", "surface"), ("good", "surface")]
    for text, ground in texts:
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for mark, ground in [("line", "band"), ("bad", "band"), ("bad", "surface"), ("median", "surface")]:
        assert contrast(colour[mark], colour[ground]) >= 3, (mark, ground)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2."""
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_examples_are_numbered_in_the_order_of_their_names(page: TestClient, folder: Path) -> None:
    assert page.get("/examples").json() == ["a.JPG", "b.png"]
    for index, (name, kind) in enumerate([("a.JPG", "image/jpeg"), ("b.png", "image/png")]):
        answer = page.get(f"/examples/{index}")
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/examples/2", "/examples/-1", "/assets/index.html", "/assets/..%2fpage.py", "/docs/no"]
)
def test_other_files_are_not_found(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


@pytest.mark.parametrize("name", ["notes.txt", "..%2fsecret.png", "%2e%2e", "a.JPG", "1e0", "0x1"])
def test_examples_are_never_looked_up_by_name(page: TestClient, folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes(b"secret")
    answer = page.get(f"/examples/{name}")
    assert answer.status_code in (404, 422)
    assert b"secret" not in answer.content


def test_examples_do_not_change_under_a_running_server(page: TestClient, folder: Path) -> None:
    before = page.get("/examples/1").content
    secret = folder.parent / "secret.png"
    secret.write_bytes(b"secret")
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(secret)
    assert page.get("/examples/1").content == before


def test_without_a_folder_there_are_no_examples() -> None:
    app = FastAPI()
    app.include_router(page_router())
    with TestClient(app) as client:
        assert client.get("/examples").json() == []
        assert client.get("/examples/0").status_code == 404


def test_the_examples_need_a_key() -> None:
    assert not any(path.startswith("/examples") for path in OPEN_PAGE_PATHS | OPEN_DOCS_PATHS)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the folder of example images"):
        page_router(examples=tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot read the folder of example images"):
        page_router(examples=folder / "b.png")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 1 to 100 example images"):
        page_router(examples=tmp_path)


def test_too_many_examples_are_refused(tmp_path: Path) -> None:
    for number in range(101):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(InputError, match="got 101"):
        page_router(examples=tmp_path)


def test_examples_that_are_too_large_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(33 * 1024 * 1024)
    with pytest.raises(InputError, match="expected files of at most"):
        page_router(examples=tmp_path)
    for name in ("large.png", "other.png"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(17 * 1024 * 1024)
    with pytest.raises(InputError, match="bytes in total"):
        page_router(examples=tmp_path)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(b"secret")
    (folder / "c.png").symlink_to(secret)
    with pytest.raises(InputError, match=r"a link to .*, outside"):
        page_router(examples=folder)


def test_a_broken_link_and_a_folder_named_as_an_image_are_refused(folder: Path) -> None:
    (folder / "c.png").symlink_to(folder / "gone.png")
    with pytest.raises(InputError, match="cannot read the example image"):
        page_router(examples=folder)
    (folder / "c.png").unlink()
    (folder / "c.png").mkdir()
    with pytest.raises(InputError, match="expected files of at most"):
        page_router(examples=folder)


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    # The form in which Kubernetes mounts a ConfigMap.
    inner = folder / "..data"
    inner.mkdir()
    (folder / "b.png").rename(inner / "b.png")
    (folder / "b.png").symlink_to(Path("..data") / "b.png")
    page_router(examples=folder)
