"""Bytes over a socket and what comes back, for what no HTTP client would send."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import orjson

__all__ = ["Answer", "exchange", "answers_in"]

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came: status, header fields in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def refusal(self) -> str | None:
        """Why this is no error in the form of its protocol; None where it is, or is no error."""
        if self.status < 400 or not self.body:  # the answer to HEAD has no body
            return None
        if self.headers.get("content-type") != "application/json":
            return f"{self.status} of type {self.headers.get('content-type')}"
        try:
            error = orjson.loads(self.body)["error"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return f"{self.status} without an error in JSON: {self.body[:80]!r}"
        if isinstance(error, str) or (isinstance(error, dict) and {"code", "message", "request_id"} <= set(error)):
            return None
        return f"{self.status} with an error of another form: {self.body[:80]!r}"


async def exchange(
    port: int, pieces: Sequence[bytes], *, pause_s: float = 0.0, half_close: bool = False, quiet_s: float = 0.15
) -> bytes:
    """What comes back for `pieces`, until the server closes or is silent for `quiet_s` seconds.

    Args:
        pause_s: between the pieces.
        half_close: say after the last piece that no more will come.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if half_close:
                writer.write_eof()
        with suppress(ConnectionError, TimeoutError):
            while part := await asyncio.wait_for(reader.read(65_536), quiet_s if received else 10 * quiet_s):
                received += part
    finally:
        writer.transport.abort()
    return received


def answers_in(received: bytes) -> list[Answer]:
    """The answers in a stream, in order; what does not parse as one ends the list."""
    answers = []
    while found := _STATUS_LINE.match(received):
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            break
        pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        headers = {name.decode("latin-1").lower(): value.strip().decode("latin-1") for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        # Where the answer was to HEAD, the next bytes are the next answer's.
        body = b"" if _STATUS_LINE.match(rest) else rest[:length]
        answers.append(Answer(int(found[1]), headers, body))
        received = rest[len(body) :]
    return answers
