"""A server process of the tiny artifact, its resources and its log."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MODEL", "ServerProcess", "serving"]

ROOT = Path(__file__).parents[2]
MODEL = "tiny"
# A traceback's last two frames and its error.
_TRACEBACK = re.compile(r"^Traceback .*\n(?:^[ \t].*\n)*?((?:^[ \t].*\n){0,4}^\S.*\n)", re.MULTILINE)
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_START_TIMEOUT_S = 200.0  # importing torch on a busy machine
_END_TIMEOUT_S = 60.0


@dataclass
class ServerProcess:
    """A running `plumbline serve`.

    Args:
        process: of the operating system.
        port, admin_port: where it listens on 127.0.0.1.
        lines: its log so far.
    """

    process: "subprocess.Popen[str]"
    port: int
    admin_port: int
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Address of the main port."""
        return f"http://127.0.0.1:{self.port}"

    def resident_bytes(self) -> int:
        """Physical memory in use."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def tracebacks(self, start: int = 0) -> list[str]:
        """The last lines of each kind of traceback logged from line `start` on, and its number."""
        log = "".join(self.lines[start:])
        kinds = Counter(_ADDRESS.sub("0x", found[1]) for found in _TRACEBACK.finditer(log))
        return [f"logged {count} times: {kind.strip()}" for kind, count in sorted(kinds.items())]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, after the end of the process."""
        return self.process.wait(_END_TIMEOUT_S)


@contextmanager
def serving(
    artifact: Path, *options: str, module: str = "service.cli.main", **settings: object
) -> Iterator[ServerProcess]:
    """A server of `artifact` under the name `MODEL`, killed at the end if it still runs.

    Args:
        options: further command-line arguments.
        module: what `python -m` runs.
        settings: as in `service.http.settings.Settings`.
    """
    command = [
        *(sys.executable, "-m", module, "serve", "--artifact", f"{MODEL}={artifact}", "--port", "0"),
        *("--admin-port", "0", *options),
    ]
    given = {"torch_threads": 1, "decode_threads": 2, **settings}
    environment = {**os.environ, **{f"PLUMBLINE_{name.upper()}": str(value) for name, value in given.items()}}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    started = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "curl" in line:
                started.set()
        started.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert started.wait(_START_TIMEOUT_S), lines
        log = "".join(lines)
        found = re.search(r"serving on http://127\.0\.0\.1:(\d+)\b.*?metrics: http://127\.0\.0\.1:(\d+)", log)
        assert found, log
        yield ServerProcess(process, int(found[1]), int(found[2]), lines)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(_END_TIMEOUT_S)
        reader.join(_END_TIMEOUT_S)
        assert process.stderr is not None
        process.stderr.close()
