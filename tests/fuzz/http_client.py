"""Raw bytes over a socket and the responses, for requests that no HTTP client sends."""

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
    """One HTTP response: status, headers with names in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def refusal(self) -> str | None:
        """The reason if this is an error in another form than that of its protocol, else None."""
        if self.status < 400 or not self.body:  # a response to HEAD has no body
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
    """The bytes received for `pieces`, until the server closes or is silent for `quiet_s` seconds.

    Args:
        pause_s: between the pieces.
        half_close: close the sending direction after the last piece.
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
    """The responses in a stream, in order, up to the first invalid bytes."""
    answers = []
    while found := _STATUS_LINE.match(received):
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            break
        pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        headers = {name.decode("latin-1").lower(): value.strip().decode("latin-1") for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        # After a response to HEAD, the next bytes belong to the next response.
        body = b"" if _STATUS_LINE.match(rest) else rest[:length]
        answers.append(Answer(int(found[1]), headers, body))
        received = rest[len(body) :]
    return answers
