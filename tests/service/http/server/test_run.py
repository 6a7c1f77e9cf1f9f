"""The server process: addresses, signals, shutdown, reload."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from detector.artifact import Artifact
from models.errors import InputError
from service.http.connection.descriptors import allow_descriptors
from service.http.server.run import FAILED_EXIT_CODE, serve
from service.http.settings import Settings
from tests.chaos.poisoned_network import HANG, marker
from tests.chaos.scenarios import NETWORK
from tests.conftest import SEED
from tests.images import encoded
from tests.tiny_artifact import save_tiny_artifact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
START_TIMEOUT_S = 200.0  # importing torch on a busy machine


@dataclass
class Running:
    """A server process, its addresses and its log."""

    process: "subprocess.Popen[str]"
    url: str
    admin: str
    lines: list[str]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def server(
    folder: Path | str,
    *options: str,
    begun: "Callable[[subprocess.Popen[str]], object] | None" = None,
    program: tuple[str, str] = ("-m", "service.cli.main"),
    **settings: str,
) -> Iterator[Running]:
    """A running server; `begun` is called with its process before it runs."""
    command = [sys.executable, *program, "serve", "--artifact", str(folder), *options]
    command += ["--port", "0", "--admin-port", "0"]
    env = os.environ | {f"PLUMBLINE_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env)
    lines: list[str] = []
    found = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "curl" in line:
                found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if begun is not None:
            begun(process)
        assert found.wait(START_TIMEOUT_S), lines
        match = re.search(r"serving on (http://[^ ]+) ", "".join(lines))
        assert match, lines
        admin = re.search(r"metrics: (http://[^ ]+)/metrics", "".join(lines))
        assert admin, lines
        yield Running(process, match[1], admin[1], lines)
    finally:
        process.kill()
        process.wait(60)
        reader.join(60)
        assert process.stderr is not None
        process.stderr.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_sigterm_under_load_loses_no_accepted_request(artifact_folder: Path, png: bytes) -> None:
    statuses: list[int] = []
    failures: list[Exception] = []

    def client(url: str) -> None:
        # A well-behaved client continues until a response ends its connection.
        try:
            with httpx.Client(timeout=60, trust_env=False) as http:
                while True:
                    answer = http.post(f"{url}/v1/predict", content=png)
                    statuses.append(answer.status_code)
                    if answer.headers.get("connection") == "close":
                        return
        except httpx.HTTPError as exc:
            failures.append(exc)

    with server(artifact_folder, receive_grace_s="60") as running:
        host, port = running.url.removeprefix("http://").split(":")
        # Accepted before the signal, with its last byte long after the end of the listener.
        slow = socket.create_connection((host, int(port)), timeout=60)
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png) + png[:-1])
        threads = [threading.Thread(target=client, args=(running.url,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(statuses) > 30)
        running.process.send_signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        ready = httpx.get(f"{running.url}/v2/health/ready", timeout=60, trust_env=False)
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        for thread in threads:
            thread.join(60)
        wait_until(lambda: not accepts(host, int(port)))
        assert running.process.poll() is None
        slow.sendall(png[-1:])
        answer = slow.recv(65_536)
        slow.close()
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert running.process.wait(60) == 0, running.lines
        assert time.monotonic() - signalled_at < 60
    assert failures == []
    assert set(statuses) == {200}
    assert not any("Traceback" in line for line in running.lines), running.lines


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def hang_up(process: "subprocess.Popen[str]") -> None:
    """Send SIGHUP as soon as the process handles it, which is before the end of its start."""

    def handled() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) & 1 << signal.SIGHUP - 1)

    wait_until(handled)
    process.send_signal(signal.SIGHUP)


def test_a_process_serves_verdicts(artifact_folder: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with server(artifact_folder, begun=hang_up, api_key_file="misspelt") as running:
        assert any("PLUMBLINE_API_KEY_FILE (did you mean PLUMBLINE_API_KEYS_FILE?)" in line for line in running.lines)
        curl = next(line for line in running.lines if "curl" in line)
        assert f"curl --data-binary @image.png '{running.url}/v1/predict?path=true'" in curl
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as http:
            answer = http.post("/v1/predict?path=true", content=png)
            assert answer.status_code == 200
            assert "path" in answer.json()["results"][0]
            assert "server" not in answer.headers
            chunked = http.post("/v1/predict", content=iter([png[:50], png[50:]]))
            assert chunked.status_code == 200
            too_large = http.post("/v1/predict", content=bytes(33 * 1024 * 1024))
            assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "body_too_large")
            assert http.get("/v2/health/live").json() == {"live": True, "ready": True}
            assert http.get("/metrics").status_code == 404
            wait_until(lambda: any("tiny keeps version" in line for line in running.lines))  # SIGHUP during the start
            figures = http.get(f"{running.admin}/metrics").text
            assert 'plumbline_reloads_total{model="tiny",outcome="unchanged"} 1.0' in figures
            assert 'plumbline_images_total{model="tiny"} 2.0' in figures
            assert http.get(f"{running.admin}/v1/predict").status_code == 404
        host, port = running.url.removeprefix("http://").split(":")
        for junk in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n" * 2,
        ):
            with socket.create_connection((host, int(port)), timeout=60) as raw:
                raw.sendall(junk)
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100 + b"\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 431 ")
        assert httpx.get(f"{running.url}/v2/health/ready", timeout=60, trust_env=False).status_code == 200
        for _ in range(5):  # directly followed by the shutdown
            running.process.send_signal(signal.SIGHUP)
        assert running.terminate() == 0
    assert not any("Traceback" in line for line in running.lines), running.lines
    imported = {line.rpartition("|")[2].strip() for line in running.lines if line.startswith("import time:")}
    assert "torch" in imported
    slow = {
        "torch._dynamo",
        "sympy",
        "sklearn",
        "scipy.stats",
        "torchvision",
        "matplotlib",
        "onnxscript",
    }
    assert not slow & imported, "slow to import, and not needed to serve"


REPORTS_FREED_NETWORKS = """
import sys, weakref
from service.cli.main import main
from service.http.server import run

log_addresses = run.log_addresses

def watch_and_log(server, *rest):
    [model] = server._repository
    weakref.finalize(model.artifact.pipeline.network, print, "the network is freed", file=sys.stderr, flush=True)
    log_addresses(server, *rest)

run.log_addresses = watch_and_log
sys.exit(main())
"""


def test_a_replaced_version_leaves_memory(artifact_folder: Path, other_artifact_folder: Path, tmp_path: Path) -> None:
    """The folder is a link that is switched to another artifact, as in deployments."""
    link = tmp_path / "current"
    link.symlink_to(artifact_folder)
    with server(link, program=("-c", REPORTS_FREED_NETWORKS)) as running:
        (tmp_path / "next").symlink_to(other_artifact_folder)
        (tmp_path / "next").replace(link)
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any("the network is freed" in line for line in running.lines))
        assert any("the previous version was" in line for line in running.lines)
        assert running.terminate() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_addresses_other_than_loopback_need_keys(artifact: Artifact, host: str) -> None:
    with pytest.raises(InputError, match=r"API keys.*--keys"):
        serve(artifact, Settings(host=host))
    with pytest.raises(InputError, match=r"API keys.*--admin-keys"):
        serve(artifact, Settings(admin_host=host))


@pytest.mark.parametrize("which", ["port", "admin_port"])
@pytest.mark.usefixtures("logging_as_before")
def test_a_port_in_use_is_logged_and_ends_the_process(
    artifact: Artifact, capfd: pytest.CaptureFixture[str], which: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as caught:
        serve(artifact, Settings(**{"port": 0, "admin_port": 0, "torch_threads": 1, which: taken.getsockname()[1]}))
    assert caught.value.code not in (0, None)
    assert "address already in use" in capfd.readouterr().err


def test_a_stuck_batch_during_the_drain_is_detected(tmp_path: Path) -> None:
    folder = save_tiny_artifact(tmp_path / "poisoned", SEED, NETWORK)
    row = 255 * np.array(marker(HANG), np.uint8)
    poison = encoded(Image.fromarray(np.tile(row[None, :, None], (16, 1, 3))))
    answers: list[httpx.Response] = []
    with server(
        f"ours={folder}",
        *("--network", NETWORK),
        canary_interval_s="0",
        hang_timeout_s="3",
        drain_timeout_s="50",
        shutdown_grace_s="0",
    ) as running:

        def ask() -> None:
            answers.append(httpx.post(f"{running.url}/v1/predict", content=poison, timeout=60, trust_env=False))

        asking = threading.Thread(target=ask)
        asking.start()

        def scoring() -> bool:
            figures = httpx.get(f"{running.admin}/metrics", timeout=60, trust_env=False).text
            return 'plumbline_admitted_images{model="ours"} 1.0' in figures

        wait_until(scoring)
        assert running.terminate() == FAILED_EXIT_CODE
        asking.join()
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].json()["error"]["code"] == "stopped"
    assert any("exiting: ours: the inference thread has been scoring 1 images" in line for line in running.lines)


def test_the_limit_on_open_files_is_raised_up_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    infinity = resource.RLIM_INFINITY
    for now, after in (
        ((1024, infinity), [(2064, infinity)]),
        ((1024, 4096), [(2064, 4096)]),
        ((1024, 1500), [(1500, 1500)]),
        ((2064, 4096), []),
        ((infinity, infinity), []),
    ):
        limits.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=now: now)
        allow_descriptors(1000)
        assert limits == after


@pytest.mark.parametrize(("hard", "enough"), [(1063, False), (1064, True)])
def test_a_low_limit_on_open_files_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hard: int, enough: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with caplog.at_level("WARNING", "plumbline.server"):
        allow_descriptors(1000)
    said = "at least 1064 open files for 1000 connections, got 1063" in caplog.text
    assert (said, len(caplog.messages)) == (not enough, 0 if enough else 1)
