"""Draw docs/images/web-page.png: the web page after it scored the two images of the demo.

The command needs the folder demo/ of `plumbline demo`, and a Chromium.
"""

import sys
from pathlib import Path

from benchmarks.serving.browser import Browser, chromium, open_browser
from benchmarks.serving.running_server import RunningServer
from detector.artifact import load_artifact
from models.errors import InputError
from service.http.server.app import create_app
from service.http.settings import read_settings

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "web-page.png"
WIDTH, HEIGHT = 1000, 800
SCORED = "document.querySelectorAll('.card').length === {} && !document.querySelector('.card.waiting')"


def main(demo: Path = ROOT / "demo", picture: Path = PICTURE) -> None:
    """Save `picture`: the page after the artifact in `demo` scored the images there.

    Raises:
        InputError: no browser or no demo is found.
    """
    executable = chromium()
    images = [demo / "natural.png", demo / "attacked.png"]
    if executable is None:
        raise InputError("no Chromium found to draw the page; install the package chromium")
    if not all(path.is_file() for path in images):
        raise InputError(f"no images of the demo in {demo}; run `plumbline demo` first")
    server = RunningServer(
        create_app(load_artifact(demo / "artifact"), read_settings(torch_threads=1, decode_threads=1))
    )
    try:
        with open_browser(executable) as browser:
            _draw(browser, server.address, images, picture)
    finally:
        server.stop()


def _draw(browser: Browser, address: str, images: list[Path], picture: Path) -> None:
    browser.size(WIDTH, HEIGHT)
    browser.scheme("light")
    browser.go(address)
    browser.choose("#files", images)
    browser.wait_for(SCORED.format(len(images)))
    browser.wait_for(f"document.querySelector('#figures').textContent.includes('{len(images)} requests')")
    browser.screenshot(picture)


if __name__ == "__main__":
    try:
        main()
    except InputError as exc:
        sys.exit(str(exc))
