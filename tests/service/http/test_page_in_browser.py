"""The web page in headless Chromium, with a real server."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.serving.browser import Browser, chromium, open_browser
from benchmarks.serving.running_server import RunningServer
from detector.artifact import Artifact
from service.http.inference.model import ModelSource
from service.http.server.app import create_app
from service.http.settings import Settings
from tests.conftest import SEED
from tests.images import encoded, noise
from tests.tiny_artifact import CLASSES, SIDE

EXECUTABLE = chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed to look at the page with"),
]

KEY = "a-key-for-the-web-page"
DONE = "document.querySelectorAll('.card').length === {} && !document.querySelector('.card.waiting')"
CARDS = """[...document.querySelectorAll('.card')].map((card) => ({
    name: card.querySelector('h3').textContent,
    state: card.className,
    verdict: card.querySelector('.verdict').textContent,
    text: card.innerText,
    marks: [...card.querySelectorAll('figure')].map((figure) => figure.querySelectorAll('.mark').length),
    outside: [...card.querySelectorAll('figure')].map((figure) => figure.querySelectorAll('.mark.outside').length),
}))"""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes(encoded(noise(np.random.default_rng(SEED))))
    return folder


@pytest.fixture(scope="module")
def run_server(artifact: Artifact, examples: Path) -> Iterator[Callable[..., RunningServer]]:
    """A running server of models with these names and settings."""
    with ExitStack() as stack:

        def run_server(*names: str, **given: Any) -> RunningServer:
            settings = Settings(**{"torch_threads": 1, "decode_threads": 1, "examples": examples, **given})
            models = {name: ModelSource(artifact) for name in names or ("model",)}
            running = RunningServer(create_app(models, settings))
            stack.callback(running.stop)
            return running

        yield run_server


@pytest.fixture(scope="module")
def server(run_server: Callable[..., RunningServer]) -> RunningServer:
    return run_server()


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    assert EXECUTABLE is not None
    with open_browser(EXECUTABLE) as browser:
        yield browser


@pytest.fixture
def browser(opened: Browser, server: RunningServer) -> Browser:
    """A browser on the page in a desktop window with the light theme, without earlier errors."""
    opened.size(1100, 900)
    opened.scheme("light")
    visit(opened, server)
    return opened


def visit(browser: Browser, server: RunningServer) -> None:
    """Open the page of `server`, and clear earlier errors and addresses."""
    browser.go("about:blank")
    browser.errors.clear()
    browser.addresses.clear()
    browser.go(server.address)


def errors(browser: Browser, *expected: str) -> list[str]:
    """Errors of the browser, except those that the test provokes."""
    return [error for error in browser.errors if not any(word in error for word in expected)]


def scored(browser: Browser, count: int) -> list[dict[str, Any]]:
    """The contents of the cards once there are `count` of them and none waits."""
    browser.wait_for(DONE.format(count))
    return list(browser.evaluate(CARDS))


def text(browser: Browser, selector: str) -> str:
    return str(browser.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))


def is_visible(browser: Browser, selector: str) -> bool:
    return bool(browser.evaluate(f"document.querySelector({json.dumps(selector)}).checkVisibility()"))


def test_the_calibration_watch_is_drawn(
    browser: Browser, run_server: Callable[..., RunningServer], flagged_png: bytes
) -> None:
    server = run_server(sessions_bytes=0)  # copies count
    files = [("file", (f"{number}.png", flagged_png)) for number in range(250)]
    with httpx.Client(trust_env=False, timeout=60) as client:
        assert client.post(f"{server.address}v1/predict", files=files).status_code == 200
    visit(browser, server)
    browser.wait_for("document.querySelector('#figures').innerText.includes('images differ')")
    browser.evaluate("document.querySelector('#watch summary').click()")
    assert "250 of 250 images flagged" in text(browser, "#watch-figures")
    assert "1 of 1 points outside the band" in text(browser, "#watch-figures")
    assert browser.evaluate("document.querySelectorAll('#watch-figures .bar').length") == 20
    assert browser.evaluate("document.querySelectorAll('#watch-figures .mark.outside').length") == 1
    assert "more flags than the calibration allows" in text(browser, "#watch-figures ol")
    assert not errors(browser)


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    """Files of two smooth images, which are natural here, and of two noise images."""
    paths = []
    for number in range(4):
        image = noise(rng, 4, 4).resize((SIDE, SIDE), Image.Resampling.BILINEAR) if number < 2 else noise(rng)
        paths.append(tmp_path / f"image {number}.png")
        paths[-1].write_bytes(encoded(image))
    return paths


def test_each_card_shows_the_verdict_and_the_path_of_the_response(
    browser: Browser, server: RunningServer, images: list[Path]
) -> None:
    browser.choose("#files", images)
    cards = scored(browser, len(images))
    for path, card in zip(images, cards, strict=True):
        answer = httpx.post(f"{server.address}v1/predict?path=true", content=path.read_bytes()).json()
        (result,) = answer["results"]
        assert card["name"] == path.name
        assert card["verdict"] == ("Flagged: do not trust the class" if result["flagged"] else "Not flagged")
        assert card["state"] == ("card flagged" if result["flagged"] else "card trusted")
        assert result["class_name"] in card["text"]
        for name in ("Probability", "Score", "p-value", "Components of the score"):
            assert name in card["text"]
        assert f"flagged from {answer['threshold']:.3g}" in card["text"]
        if result["flagged"] and result["main_component"]:
            assert "Flagged mainly by" in card["text"]
        assert card["marks"] == [len(result["path"]["branches"])] * 2
        outside = [
            [not low <= value <= high for low, value, high in zip(*rows, strict=True)]
            for rows in zip(*(result["path"][name] for name in ("low", "statistics", "high")), strict=True)
        ]
        assert card["outside"] == np.sum(outside, axis=0).tolist()
        if np.any(outside):
            first = int(np.argmax(np.any(outside, axis=1)))
            assert f"leaves the natural band at block {first + 1} ({result['path']['branches'][first]})" in card["text"]
            assert f"{np.sum(outside)} of {np.size(outside)} values" in card["text"]
        else:
            assert "stays in the natural band at every block" in card["text"]
    flagged = sum(card["state"] == "card flagged" for card in cards)
    assert text(browser, "#summary") == f"4 images · {flagged} flagged · {4 - flagged} not flagged"
    assert errors(browser) == []


def test_the_page_contacts_no_other_server(browser: Browser, server: RunningServer, images: list[Path]) -> None:
    browser.choose("#files", images)
    scored(browser, len(images))
    addresses = [
        address for address in browser.addresses if not address.startswith((f"blob:{server.address}", "data:"))
    ]
    assert f"{server.address}v1/predict?path=true" in addresses
    assert all(address.startswith(server.address) for address in addresses if address != "about:blank")


def test_a_broken_file_shows_its_error_and_the_others_their_verdicts(
    browser: Browser, images: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:-20])
    browser.choose("#files", [images[0], broken, images[1]])
    cards = scored(browser, 3)
    assert [card["name"] for card in cards] == ["image 0.png", "broken.png", "image 1.png"]
    assert cards[1]["verdict"] == "This image cannot be scored."
    assert "cut off" in cards[1]["text"]
    assert cards[1]["state"] == "card refused"
    assert "refused" not in cards[0]["state"] + cards[2]["state"]
    assert text(browser, "#summary").endswith("1 refused")
    assert errors(browser, "422") == []


def test_a_file_that_is_too_large_shows_an_error(
    opened: Browser, browser: Browser, run_server: Callable[..., RunningServer], images: list[Path]
) -> None:
    visit(opened, run_server(max_body_bytes=100))
    browser.choose("#files", images[:1])
    (card,) = scored(browser, 1)
    assert card["verdict"] == "The file is too large for this server."
    assert "at most 100 bytes" in card["text"]


def test_an_image_refused_by_a_full_server_can_be_sent_again(
    browser: Browser, run_server: Callable[..., RunningServer], images: list[Path]
) -> None:
    full = run_server(max_body_bytes=100_000, max_images_per_request=1, max_queue_bytes=101_000)
    visit(browser, full)
    with closing(socket.create_connection(("127.0.0.1", full.port))) as slow:
        # An announced body keeps its capacity until it arrives.
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        until_status(full, images[0], 429)
        browser.choose("#files", images[:1])
        (card,) = scored(browser, 1)
        assert card["verdict"] == "The server is at its capacity. Try again in 1 s."
    until_status(full, images[0], 200)
    browser.evaluate("document.querySelector('.card button').click()")
    (card,) = scored(browser, 1)
    assert card["state"] in ("card flagged", "card trusted")
    assert errors(browser, "429") == []


def until_status(server: RunningServer, path: Path, status: int) -> None:
    until = time.monotonic() + 20
    while httpx.post(f"{server.address}v1/predict", content=path.read_bytes()).status_code != status:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_stopped_server_shows_an_error(
    browser: Browser, run_server: Callable[..., RunningServer], images: list[Path]
) -> None:
    short_lived = run_server()
    visit(browser, short_lived)
    browser.wait_for("document.querySelectorAll('#example-list button').length === 2")
    short_lived.stop()
    browser.choose("#files", images[:1])
    (card,) = scored(browser, 1)
    assert card["verdict"] == "The server does not respond."


def test_the_page_asks_for_a_valid_key_and_continues(
    browser: Browser, run_server: Callable[..., RunningServer], images: list[Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    visit(browser, run_server(api_keys_file=keys))
    browser.wait_for("document.getElementById('key').checkVisibility()")
    assert text(browser, "#key-message") == "The server needs an API key."
    browser.evaluate("document.getElementById('key').focus()")
    browser.write("another-key-that-is-wrong")
    browser.press("Enter")
    browser.wait_for("document.getElementById('key-message').textContent.includes('not valid')")
    browser.choose("#files", images[:2])
    assert {card["verdict"] for card in scored(browser, 2)} == {"This API key is not valid."}
    browser.evaluate("document.getElementById('key').focus()")
    browser.write(KEY)
    browser.press("Enter")
    browser.wait_for("document.querySelectorAll('.card.flagged, .card.trusted').length === 2")
    browser.wait_for("document.querySelectorAll('#example-list button').length === 2")
    assert not is_visible(browser, "#key-section")
    assert browser.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert errors(browser, "401") == []


def test_the_page_works_with_the_keyboard_alone(browser: Browser, images: list[Path]) -> None:
    browser.wait_for("document.querySelectorAll('#example-list button').length === 2")
    browser.press("Tab")
    assert focused(browser) == "Skip to the results"
    tab_to(browser, "files")
    browser.call("Page.setInterceptFileChooserDialog", enabled=True)
    browser.events.clear()
    browser.press("Enter")
    until_event(browser, "Page.fileChooserOpened")
    browser.call("Page.setInterceptFileChooserDialog", enabled=False)
    browser.choose("#files", images[:1])
    scored(browser, 1)
    tab_to(browser, "Score two.png")
    browser.press("Enter")
    assert [card["name"] for card in scored(browser, 2)] == ["two.png", "image 0.png"]
    tab_to(browser, "Statistics of every block")
    browser.press("Space")
    browser.wait_for("document.querySelector('.card details').open")
    assert is_visible(browser, ".card tbody tr")
    browser.evaluate("document.querySelector('.skip').focus()")
    tab_to(browser, "Clear")
    browser.press("Enter")
    browser.wait_for("document.querySelectorAll('.card').length === 0")
    assert focused(browser) == "files"


def until_event(browser: Browser, name: str) -> None:
    until = time.monotonic() + 20
    while name not in browser.events:
        assert time.monotonic() < until
        browser.evaluate("1")  # events arrive with responses


def focused(browser: Browser) -> str:
    """Name of the focused element, whose focus must be visible."""
    name, outline = browser.evaluate("""(() => {
        const at = document.activeElement;
        const shown = at.id === 'files' ? document.querySelector('#drop label') : at;
        return [at.ariaLabel ?? (at.innerText || at.id), getComputedStyle(shown).outlineStyle];
    })()""")
    assert outline != "none", f"the focus on {name} is not seen"
    return str(name).strip()


def tab_to(browser: Browser, name: str) -> None:
    seen = []
    for _ in range(30):
        browser.press("Tab")
        seen.append(focused(browser))
        if seen[-1] == name:
            return
    pytest.fail(f"no way to {name} by Tab, only to {seen}")


def test_images_may_be_dropped_and_pasted(browser: Browser) -> None:
    browser.wait_for("document.querySelectorAll('#example-list button').length === 2")
    script = """fetch('examples/0').then((answer) => answer.blob()).then((image) => {
        const data = new DataTransfer();
        data.items.add(new File([image], 'by %s.png'));
        document.body.dispatchEvent(new %s);
    })"""
    browser.evaluate(script % ("hand", "DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})"))
    scored(browser, 1)
    browser.evaluate(script % ("clipboard", "ClipboardEvent('paste', {clipboardData: data, bubbles: true})"))
    assert [card["name"] for card in scored(browser, 2)] == ["by clipboard.png", "by hand.png"]


def test_many_images_are_sent_at_most_four_at_a_time(browser: Browser, images: list[Path]) -> None:
    browser.evaluate("""(() => {
        const real = window.fetch;
        window.most = window.now = 0;
        window.fetch = async (address, ...rest) => {
            const counts = String(address).includes('predict');
            window.most = Math.max(window.most, window.now += counts);
            try { return await real(address, ...rest); } finally { window.now -= counts; }
        };
    })()""")
    browser.choose("#files", images * 4)
    assert len(scored(browser, 16)) == 16
    assert 1 <= browser.evaluate("window.most") <= 4


def test_a_file_name_is_shown_as_text(browser: Browser, images: list[Path]) -> None:
    path = images[0].rename(images[0].with_name("<img src=x onerror=console.error(1)><b>.png"))
    browser.choose("#files", [path])
    (card,) = scored(browser, 1)
    assert card["name"] == path.name
    assert browser.evaluate("document.querySelectorAll('.card b, .card img').length") == 1  # the thumbnail
    assert errors(browser) == []


def figures(browser: Browser) -> dict[str, str]:
    """The fields of the status panel by name."""
    return dict(
        browser.evaluate("""[...document.querySelectorAll('#figures div')].map((one) =>
            [one.querySelector('dt').textContent, one.querySelector('dd').textContent])""")
    )


def test_queue_and_latency_are_shown_and_updated(
    browser: Browser, run_server: Callable[..., RunningServer], images: list[Path]
) -> None:
    fresh = run_server(max_queue_images=300)
    visit(browser, fresh)
    browser.wait_for("document.querySelector('#live').checkVisibility()")
    shown = figures(browser)
    assert (shown["State"], shown["Queued"], shown["In progress"]) == ("ready", "0", "0 of 300")
    assert (shown["Latency, median"], shown["Last minute"]) == ("–", "0 requests")
    assert f"{SIDE} × {SIDE} pixels and {len(CLASSES)} classes" in text(browser, "#takes")
    assert not is_visible(browser, "#model-choice")
    browser.choose("#files", images)
    scored(browser, len(images))
    browser.wait_for("document.querySelector('#figures').textContent.includes('4 requests')")
    assert figures(browser)["Latency, median"].endswith(" ms")
    assert figures(browser)["99 %"].endswith(" ms")
    fresh.stop()
    browser.wait_for("document.querySelector('#figures').textContent.includes('does not respond')")


def test_a_hidden_page_sends_no_requests(browser: Browser, server: RunningServer) -> None:
    # window.due contains the timers of the next requests.
    watch = """(() => {
        window.due = new Set();
        const [set, clear] = [window.setTimeout, window.clearTimeout];
        window.setTimeout = (what, after) => {
            const timer = set(() => { window.due.delete(timer); what(); }, after);
            window.due.add(timer);
            return timer;
        };
        window.clearTimeout = (timer) => { window.due.delete(timer); clear(timer); };
    })()"""
    turn = """(() => {
        Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});
        document.dispatchEvent(new Event('visibilitychange'));
        return window.due.size;
    })()"""
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=watch)["identifier"]
    visit(browser, server)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    browser.wait_for("window.due.size === 1")
    assert browser.evaluate(turn % "true") == 0
    browser.evaluate("fetch('v1/status').then((answer) => answer.text())")  # earlier requests have completed
    assert browser.evaluate("window.due.size") == 0
    browser.evaluate(turn % "false")
    browser.wait_for("window.due.size === 1")


def test_one_of_several_models_can_be_selected(
    browser: Browser, run_server: Callable[..., RunningServer], images: list[Path]
) -> None:
    both = run_server("first", "second")
    visit(browser, both)
    browser.wait_for("document.querySelector('#model-choice').checkVisibility()")
    assert browser.evaluate("[...document.querySelectorAll('#model option')].map((one) => one.value)") == [
        "first",
        "second",
    ]
    browser.choose("#files", images[:1])
    assert "first" in scored(browser, 1)[0]["text"].split("Model")[1]
    browser.evaluate("document.querySelector('#model').focus()")
    browser.press("ArrowDown")
    browser.choose("#files", images[1:2])
    assert "second" in scored(browser, 2)[0]["text"].split("Model")[1]
    assert f"{both.address}v1/models/second/predict?path=true" in browser.addresses
    assert errors(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_width_of_a_phone(browser: Browser, images: list[Path], scheme: str) -> None:
    browser.size(360, 740)
    browser.scheme(scheme)
    long = images[0].rename(images[0].with_name("a" * 120 + ".png"))
    broken = images[1]
    broken.write_bytes(b"no image" * 40)
    browser.choose("#files", [long, broken])
    scored(browser, 2)
    browser.evaluate("document.querySelector('details').open = true")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    small = browser.evaluate("""[...document.querySelectorAll('button, #drop label')]
        .filter((one) => one.checkVisibility() && Math.min(one.offsetWidth, one.offsetHeight) < 44).length""")
    assert small == 0, "fingers need 44 pixels"


def test_dark_and_light_themes_differ(browser: Browser) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    light = browser.evaluate(colours)
    browser.scheme("dark")
    dark = browser.evaluate(colours)
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_nothing_moves_with_reduced_motion(browser: Browser) -> None:
    rest = {"name": "prefers-reduced-motion", "value": "reduce"}
    added = """(() => {
        const card = document.createElement('li');
        card.className = 'card waiting';
        card.innerHTML = '<p class="verdict">x</p>';
        document.getElementById('cards').append(card);
        const name = getComputedStyle(card.firstChild).animationName;
        card.remove();
        return name;
    })()"""
    assert browser.evaluate(added) == "fade"
    browser.call("Emulation.setEmulatedMedia", features=[rest])
    assert browser.evaluate(added) == "none"


def test_the_api_description_loads_nothing_from_other_servers(
    browser: Browser, server: RunningServer, run_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    browser.errors.clear()
    browser.addresses.clear()
    browser.go(f"{server.address}docs")
    browser.wait_for("document.querySelector('#swagger-ui > *')")  # drawing all of it takes seconds, hence only once
    assert not is_visible(browser, "#key-form")
    assert errors(browser) == []
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with_key = run_server(api_keys_file=keys)
    browser.go(f"{with_key.address}docs")
    browser.wait_for("document.getElementById('key').checkVisibility()")
    browser.evaluate("document.getElementById('key').focus()")
    browser.write(KEY)
    browser.press("Enter")
    browser.wait_for("document.querySelector('.opblock-summary-path')")
    assert "/v1/predict" in text(browser, "#swagger-ui")
    own = (server.address, with_key.address, "data:", "blob:")
    assert all(address.startswith(own) for address in browser.addresses)
    assert errors(browser, "401") == []
