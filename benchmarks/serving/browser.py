"""A headless Chromium, driven by its DevTools protocol."""

import base64
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

__all__ = ["Browser", "chromium", "open_browser"]

_START_TIMEOUT_S = 60.0
_REPLY_TIMEOUT_S = 30.0
_POLL_S = 0.05

_KEYS = {
    "Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
    "Enter": {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
    "ArrowDown": {"key": "ArrowDown", "code": "ArrowDown", "windowsVirtualKeyCode": 40},
    "Space": {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "},
}


def chromium() -> str | None:
    """Path of a Chromium executable, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab of a browser.

    `addresses` holds the addresses of its requests, `errors` the messages of its console and log, `events` the names
    of the events that it sent; a caller may clear them.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.addresses: list[str] = []
        self.errors: list[str] = []
        self.events: set[str] = set()
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The protocol's answer to `method`.

        Raises:
            RuntimeError: the browser returns an error.
            TimeoutError: the browser does not respond.
        """
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        until = time.monotonic() + _REPLY_TIMEOUT_S
        while True:
            message = json.loads(self._connection.recv(max(0.0, until - time.monotonic())))
            if message.get("id") != self._number:
                self._note(message)
            elif "error" in message:
                raise RuntimeError(f"expected {method} to work, got {message['error']}")
            else:
                return dict(message["result"])

    def evaluate(self, script: str) -> Any:
        """Value of the JavaScript expression `script`; a promise is awaited.

        Raises:
            RuntimeError: the expression throws.
        """
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script!r} raised {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 20.0) -> None:
        """Return once `script` is true.

        Raises:
            TimeoutError: `script` is not true within `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({script})"):
            if time.monotonic() > until:
                raise TimeoutError(f"expected {script!r} within {timeout_s:g} s, got the errors {self.errors}")
            time.sleep(_POLL_S)

    def go(self, address: str) -> None:
        """Open `address` and wait until its scripts have run."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        """Make the page `width` x `height` CSS pixels; below 500 it is a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def scheme(self, name: str) -> None:
        """Prefer `name`: light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def choose(self, selector: str, paths: Sequence[Path]) -> None:
        """Choose files in the file input that `selector` finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, name: str) -> None:
        """Press a key: Tab, Enter, ArrowDown or Space."""
        self.call("Input.dispatchKeyEvent", type="keyDown", **_KEYS[name])
        self.call("Input.dispatchKeyEvent", type="keyUp", **_KEYS[name])

    def write(self, text: str) -> None:
        """Type `text` into the focused element."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save a PNG of the page, or of its visible part."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, found = str(message.get("method")), message.get("params", {})
        self.events.add(method)
        if method == "Network.requestWillBeSent":
            self.addresses.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.errors.append(str(found["args"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")


@contextmanager
def open_browser(executable: str) -> Iterator[Browser]:
    """A fresh browser with one empty tab; it ends with the block.

    Raises:
        TimeoutError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [
                executable, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
                "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = _until(lambda: _port(Path(folder)), process)
            with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None, proxy=None) as root:
                target = _tab(root)
            with connect(f"ws://127.0.0.1:{port[0]}/devtools/page/{target}", max_size=None, proxy=None) as tab:
                yield Browser(tab)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tab(root: ClientConnection) -> str:
    root.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
    while (message := json.loads(root.recv(_REPLY_TIMEOUT_S))).get("id") != 1:
        pass
    return next(str(info["targetId"]) for info in message["result"]["targetInfos"] if info["type"] == "page")


def _port(folder: Path) -> tuple[str, str] | None:
    """The port and path that the browser has written to its file, when the file exists."""
    try:
        port, path = (folder / "DevToolsActivePort").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ValueError):
        return None
    return port, path


def _until(found: Callable[[], tuple[str, str] | None], process: "subprocess.Popen[bytes]") -> tuple[str, str]:
    until = time.monotonic() + _START_TIMEOUT_S
    while (value := found()) is None:
        if process.poll() is not None or time.monotonic() > until:
            raise TimeoutError(f"expected a browser within {_START_TIMEOUT_S:g} s, got none; does it run by itself?")
        time.sleep(_POLL_S)
    return value
