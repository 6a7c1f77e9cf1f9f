"""The review and operations pages in headless Chromium."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.serving.browser import Browser, chromium, open_browser
from benchmarks.serving.running_server import RunningServer
from detector.artifact import Artifact
from service.http.server.admin import create_admin_app
from tests.service.http.live import LiveServer

EXECUTABLE = chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed to look at the pages with"),
]
REVIEWER = "the-key-of-the-reviewer"
CARDS = "document.querySelectorAll('.card').length"


@pytest.fixture(scope="module")
def admin(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory, flagged_png: bytes) -> Iterator[RunningServer]:
    """The admin port of a server that has flagged three images, one of them with a hostile request id and label."""
    folder = tmp_path_factory.mktemp("review")
    (folder / "reviewers").write_text(REVIEWER)
    live = LiveServer(
        artifact, store=folder / "store.sqlite", keep_flagged=folder / "kept", review_keys_file=folder / "reviewers"
    )
    with ExitStack() as stack:
        stack.callback(live.stop)
        with live.client() as client:
            for _ in range(3):
                answer = client.post("/v1/predict", content=flagged_png)
                given = {"request_id": answer.headers["x-request-id"], "verdict": "false_alarm", "label": "dog"}
                assert client.post("/v1/feedback", json=given).status_code == 200
        state = live.app.state
        running = RunningServer(
            create_admin_app(state.repository, state.metrics, state.watch, live.settings, state.recorder, state.queries)
        )
        stack.callback(running.stop)
        yield running


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    assert EXECUTABLE is not None
    with open_browser(EXECUTABLE) as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser) -> Browser:
    """A browser in a desktop window with the light theme, without earlier errors and addresses."""
    opened.go("about:blank")
    opened.size(1100, 900)
    opened.scheme("light")
    opened.errors.clear()
    opened.addresses.clear()
    return opened


def test_a_reviewer_decides_with_the_keyboard(browser: Browser, admin: RunningServer) -> None:
    browser.go(f"{admin.address}review")
    browser.wait_for("document.getElementById('key').checkVisibility()")
    browser.errors.clear()  # the request without a key
    browser.evaluate("document.getElementById('key').focus()")
    browser.write(REVIEWER)
    browser.press("Enter")
    browser.wait_for(f"{CARDS} === 3")
    browser.wait_for("document.querySelectorAll('img.thumb').length === 3")
    browser.evaluate("document.querySelector('.card input').focus()")
    browser.write("<img src=x onerror=alert(1)>")
    browser.evaluate("document.querySelector('.card button').focus()")
    browser.press("Tab")  # from "False alarm" to "Correct flag"
    browser.press("Enter")
    browser.wait_for("document.querySelector('.card.reviewed')")
    text = browser.evaluate("document.querySelector('.card .verdict').textContent")
    assert text == "Flagged: Correct flag, <img src=x onerror=alert(1)> (client: False alarm, dog)"
    assert browser.evaluate("document.querySelectorAll('.verdict img').length") == 0
    focused = "[...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card'))"
    assert browser.evaluate(focused) == 1
    browser.press("Enter")  # "False alarm" of the next image
    browser.wait_for("document.querySelectorAll('.card.reviewed').length === 2")
    browser.wait_for("document.getElementById('rates').textContent.includes('of 2')")
    # The path of an image.
    browser.evaluate("document.querySelector('.card details summary').click()")
    browser.wait_for("document.querySelector('.card .path svg')")
    # Decisions survive, and filters apply.
    browser.evaluate("document.getElementById('filter-unreviewed').click()")
    browser.evaluate("document.querySelector('#filters button').click()")
    browser.wait_for(f"{CARDS} === 1")
    browser.evaluate("document.getElementById('filter-class').value = 'no such class'")
    browser.evaluate("document.querySelector('#filters button').click()")
    browser.wait_for(f"{CARDS} === 0")
    assert browser.errors == []
    assert all(address.startswith((admin.address, "blob:", "data:")) for address in browser.addresses)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1100, "dark")])
def test_the_pages_fit_the_window(browser: Browser, admin: RunningServer, width: int, scheme: str) -> None:
    browser.size(width, 740)
    browser.scheme(scheme)
    browser.go(admin.address)
    browser.wait_for("document.getElementById('headline').textContent === 'Nothing needs attention'")
    browser.wait_for("document.querySelector('#models h2')")
    assert "3 verdicts in the store" in browser.evaluate("document.getElementById('reviews').textContent")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.errors == []


def test_problems_come_first(browser: Browser, admin: RunningServer, artifact: Artifact, tmp_path: Path) -> None:
    status = httpx.get(f"{admin.address}admin/status").json()
    status["models"][0] |= {"stalled": True}
    status["ready"] = False
    status["store"]["dropped"] = 7
    status["sessions"] = [
        {"session": "s-1", "keys": ["k"], "rules": {"D": 40}, "members": 60, "flagged": 0.5, "dismissed": False}
    ]
    browser.go(admin.address)
    browser.evaluate("Boolean(window.fetch = async () => new Response(JSON.stringify(window.given)))")
    browser.evaluate(f"Boolean(window.given = {httpx.Response(200, json=status).text})")
    browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait_for("document.getElementById('headline').textContent === '4 problems need attention'")
    # A response of the server that was on its way can be drawn once more, until the next request.
    browser.wait_for("document.querySelector('#sessions a')?.getAttribute('href') === 'review?session=s-1'")
    browser.wait_for("document.getElementById('problems').textContent.includes('7 verdicts were not stored')")
