"""Shared by the benchmarks of the server: a server in its own process, and a client with little overhead.

The client runs on the server's cores. It therefore writes prepared bytes to sockets and parses only the status and the
length of a response.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import orjson
import uvloop
from PIL import Image

from detector.artifact import Artifact

__all__ = [
    "Answer",
    "Connection",
    "Process",
    "free_port",
    "image_files",
    "infer_request",
    "open_loop",
    "plumbline_server",
    "predict_request",
    "processor_seconds",
    "resident_bytes",
    "send_all",
    "server_process",
]

START_TIMEOUT_S = 300
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)")


@dataclass(frozen=True)
class Answer:
    """One response: its status, the time of sending (seconds of the monotonic clock) and the duration."""

    status: int
    sent_at: float
    seconds: float


@dataclass(frozen=True)
class Process:
    """A server process and its ports on loopback."""

    pid: int
    port: int
    admin_port: int | None = None


@contextmanager
def plumbline_server(
    artifact: Path, network: str | None = None, device: str = "cpu", **settings: object
) -> Iterator[Process]:
    """Run `plumbline serve` until the end of the block.

    Args:
        artifact: folder of the artifact.
        network: reference of a network in a Python file, if the artifact needs one.
        device: of the forward passes.
        settings: of the server, passed as environment variables.
    """
    environment = {f"PLUMBLINE_{name.upper()}": str(value) for name, value in settings.items()}
    command = ["-m", "service.cli.main", "serve", "--artifact", f"model={artifact}", "--port", "0", "--admin-port", "0"]
    command += ["--device", device] if device != "cpu" else []
    command += ["--network", f"model={network}"] if network else []
    says = r"serving on http://[^ :]+:(\d+) .*http://[^ :]+:(\d+)/metrics"
    with server_process(command, environment, says=says) as found:
        yield found


@contextmanager
def server_process(
    arguments: Sequence[str], environment: dict[str, str], *, says: str = "$", answers: tuple[int, bytes] | None = None
) -> Iterator[Process]:
    """Run a Python process that serves until the end of the block.

    Args:
        arguments: of the Python interpreter.
        environment: variables that are added to those of this process.
        says: pattern of the line on stderr that announces the ports; its groups are the ports.
        answers: in place of `says`, a port and a request that the server answers with 200 once it runs.

    Raises:
        RuntimeError: the process ended, or did not serve in time.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the group is killed at the end: workers of LitServe outlive their parent
    )
    lines: list[str] = []
    found: list[re.Match[str]] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if match := re.search(says, line):
                found.append(match)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not (_is_up(*answers) if answers else found):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server ended or did not start in time: {''.join(lines)}")
            time.sleep(0.05)
        yield Process(process.pid, *((answers[0],) if answers else map(int, found[0].groups())))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # the group has ended
            os.killpg(process.pid, signal.SIGKILL)
        reader.join(10)


def _is_up(port: int, request: bytes) -> bool:
    try:
        return send_all(port, [request], 1)[0].status == 200
    except (OSError, EOFError):
        return False


def image_files(artifact: Artifact, number: int, seed: int, kind: str = "PNG") -> list[bytes]:
    """Image files of smooth random pixels, in the size of the artifact."""
    rng = np.random.default_rng(seed)
    preprocessing = artifact.preprocessing
    side = max(preprocessing.resize or 0, preprocessing.height, preprocessing.width)
    size = (side, side) if preprocessing.resize else (preprocessing.width, preprocessing.height)
    files = []
    for _ in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        stream = BytesIO()
        coarse.resize(size, Image.Resampling.BICUBIC).save(stream, kind)
        files.append(stream.getvalue())
    return files


def predict_request(kind: str, body: bytes, path: str = "/v1/predict") -> bytes:
    """The bytes of one POST of image files."""
    return _post(path, {"Content-Type": kind}, body)


def infer_request(pixels: np.ndarray) -> bytes:
    """The bytes of one inference request of the Open Inference Protocol, with pixels and answers in binary."""
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "PIXELS", "datatype": "UINT8", "shape": list(pixels.shape),
                    "parameters": {"binary_data_size": pixels.size},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )  # fmt: skip
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return _post("/v2/models/model/infer", headers, head + pixels.tobytes())


def send_all(port: int, requests: Iterable[bytes], connections: int) -> list[Answer]:
    """Send all requests and return the answers; each connection waits for an answer before the next request."""
    return uvloop.run(_closed_loop(port, iter(requests), connections))


def open_loop(
    port: int, request: bytes, *, per_second: float, seconds: float, connections: int, tick: Callable[[], None]
) -> list[Answer]:
    """Send a request at a fixed rate, independent of the server's answers, and return the answers.

    Args:
        port: of the server.
        request: its bytes.
        per_second: rate of requests.
        seconds: duration.
        connections: enough for one to be free at any time; otherwise requests are late.
        tick: called about ten times per second.
    """
    return uvloop.run(_open_loop(port, request, per_second, seconds, connections, tick))


def free_port() -> int:
    """A port on loopback that no process uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def resident_bytes(pid: int, *, whole_group: bool = False) -> int:
    """Resident memory of a process, or of all processes of its group, in bytes."""
    pids = _group(pid) if whole_group else [pid]
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Processor time of all running processes of a group so far, in seconds."""
    ticks = (sum(map(int, _stat(each)[11:13])) for each in _group(pid))
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def _group(leader: int) -> list[int]:
    """The processes of a group, by the number of its leader."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            if int(_stat(int(path.name))[2]) == leader:
                pids.append(int(path.name))
    return pids


def _stat(pid: int) -> list[str]:
    """The fields of a process after its name, which may contain spaces: state, parent, group and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: benchmark", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """A connection that sends one request at a time and reconnects after its end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> Answer:
        """The answer to one request; a request on a reused connection that has ended is sent again."""
        sent_at = time.monotonic()
        kept = self._streams is not None
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
        except (EOFError, ConnectionError):
            self.close()
            if not kept:
                raise
            return await self.ask(request)
        found = _LENGTH.search(head)
        if found is None:
            raise RuntimeError(f"the answer has no Content-Length: {head!r}")
        await reader.readexactly(int(found[1]))
        seconds = time.monotonic() - sent_at
        if b"\r\nconnection: close" in head.lower():
            self.close()
        return Answer(int(head[9:12]), sent_at, seconds)

    async def drop(self, request: bytes) -> None:
        """Send half of a request and disconnect."""
        self.close()
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request[: len(request) // 2])
        await writer.drain()
        writer.close()

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _closed_loop(port: int, requests: Iterator[bytes], connections: int) -> list[Answer]:
    answers: list[Answer] = []

    async def work() -> None:
        connection = Connection(port)
        for request in requests:
            answers.append(await connection.ask(request))  # noqa: PERF401 - others append between
        connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return answers


async def _open_loop(
    port: int, request: bytes, per_second: float, seconds: float, connections: int, tick: Callable[[], None]
) -> list[Answer]:
    answers: list[Answer] = []
    started = time.monotonic()
    period = connections / per_second

    async def work(number: int) -> None:
        connection = Connection(port)
        due = started + number / per_second
        while due < started + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            answers.append(await connection.ask(request))
            due = max(due + period, time.monotonic())
        connection.close()

    async def watch() -> None:
        while True:
            tick()
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(work(number) for number in range(connections)))
    watching.cancel()
    return answers
