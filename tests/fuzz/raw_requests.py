"""Random invalid requests with a seed: malformed, inconsistent, ambiguous, endless."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.fuzz.process import MODEL

__all__ = ["KINDS", "RawRequest", "draw"]

_PREDICT = b"/v1/predict"
_INFER = f"/v2/models/{MODEL}/infer".encode()
_PATHS = (
    *(b"/", b"/v1/predict", b"/v1/status", b"/v1/models", b"/v2", b"/v2/health/ready", b"/openapi.json", b"/docs"),
    *(_INFER, f"/v2/models/{MODEL}".encode(), f"/v1/models/{MODEL}/predict".encode(), b"/none", b"/v2/none"),
)
_METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"BREW", b"PRI")


@dataclass(frozen=True)
class RawRequest:
    """Bytes for one connection.

    Args:
        kind: which of `KINDS`.
        pieces: sent one after the other.
        max_responses: more responses mean that a body was parsed as a request.
        pause_s: between the pieces.
        half_close: whether the client then closes its sending direction.
    """

    kind: str
    pieces: tuple[bytes, ...]
    max_responses: int | None = None
    pause_s: float = 0.0
    half_close: bool = False


def draw(rng: np.random.Generator, png: bytes) -> RawRequest:
    """A random request of a random kind; `png` is an image that the server accepts."""
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    return KINDS[kind](rng, png)


def _pick(rng: np.random.Generator, choices: tuple[bytes, ...]) -> bytes:
    return choices[int(rng.integers(len(choices)))]


def _junk(rng: np.random.Generator, most: int) -> bytes:
    return rng.integers(0, 256, int(rng.integers(most + 1)), dtype=np.uint8).tobytes()


def _post(path: bytes, body: bytes, *headers: bytes, length: bytes | None = None) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", *headers]
    lines.append(b"Content-Length: " + (str(len(body)).encode() if length is None else length))
    return b"\r\n".join([*lines, b"", b""]) + body


def _request_lines(rng: np.random.Generator, png: bytes) -> RawRequest:
    line = _pick(
        rng,
        (
            b"GET", b"GET /", b"GET / HTTP/9.9", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 x", b"\0GET / HTTP/1.1",
            b"GET /\0 HTTP/1.1", b"GET http://[::1 HTTP/1.1", b"GET //../../etc/passwd HTTP/1.1",
            b"GET /%00%ff%2e%2e/ HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"get / HTTP/1.1",
            b"GET /" + b"a" * int(rng.integers(100_000)) + b" HTTP/1.1", b"GET /v1/predict?" + b"path=true&" * 3000
            + b" HTTP/1.1", b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", _junk(rng, 400),
            b"GET /v2/models/%s HTTP/1.1" % (b"..%2f" * 40), b"GET /v1/predict?path=\xff\xfe HTTP/1.1",
        ),
    )  # fmt: skip
    return RawRequest("request line", (line + b"\r\nHost: x\r\n\r\n",))


def _methods(rng: np.random.Generator, png: bytes) -> RawRequest:
    head = _pick(rng, _METHODS) + b" " + _pick(rng, _PATHS) + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    return RawRequest("method", (head,))


def _headers(rng: np.random.Generator, png: bytes) -> RawRequest:
    header = _pick(
        rng,
        (
            b"X: " + b"y" * int(rng.integers(70_000)), b"\r\n".join([b"X: y"] * int(rng.integers(1, 3000))),
            b"X", b": y", b"X : y", b"X:\0y", b"\0: y", b" folded: y", b"X: y\n\tz", b"X: \xff\xfe", b"X: y\rZ: w",
            b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, identity", b"Expect: 100-continue",
            b"Expect: 200-maybe", b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c\r\nConnection: Upgrade",
            b"Content-Encoding: gzip", b"Content-Type: multipart/form-data", b"Content-Type: \xff",
            b"Content-Type: multipart/form-data; boundary=" + b"-" * 200, b"Content-Type: application/json",
            b"Content-Type: application/json; charset=utf-16", b"X-Request-ID: \"><script>", b"Range: bytes=0-",
            b"Connection: close, keep-alive, \xff", b"Host: y", b"X-API-Key: " + _junk(rng, 50).replace(b"\n", b""),
            b"Authorization: Bearer \xf0\x28", b"traceparent: 00-" + b"0" * 99, b"Cookie: " + b"a=b; " * 500,
        ),
    )  # fmt: skip
    path = _pick(rng, (_PREDICT, _INFER))
    return RawRequest("header", (_post(path, png, header),))


def _lengths(rng: np.random.Generator, png: bytes) -> RawRequest:
    length = _pick(
        rng,
        (
            b"-1", b"+5", b"0x10", b"1e3", b" ", b"", b"9" * 30, b"18446744073709551617", b"5 5", b"5, 5", b"5\0",
            str(len(png) + 10).encode(), str(len(png) - 10).encode(), b"0", b"00", str(1 << 40).encode(),
        ),
    )  # fmt: skip
    # If the length is too small, the rest of the image is parsed as the next request, which is refused.
    return RawRequest(
        "length", (_post(_pick(rng, (_PREDICT, _INFER)), png, length=length),), half_close=bool(rng.integers(2))
    )


def _chunks(rng: np.random.Generator, png: bytes) -> RawRequest:
    size = f"{len(png):x}".encode()
    whole = size + b"\r\n" + png + b"\r\n"
    body = _pick(
        rng,
        (
            whole + b"0\r\n\r\n", whole, whole + b"0\r\n",
            size + b";" + b"x" * 30_000 + b"\r\n" + png + b"\r\n0\r\n\r\n",
            b"-5\r\n" + png, b"zz\r\n" + png, b"\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n", b"5\nabcde\n0\n\n",
            b"ffffffffffffffff\r\n" + png, b"fffffffffffffffffffff\r\n" + png, b"5\r\nabcdefgh\r\n0\r\n\r\n",
            b"1\r\na\r\n" * 500 + b"0\r\n\r\n", whole + b"0\r\nTrailer: x\r\n\r\n",
            whole + b"0\r\n" + b"T: x\r\n" * 5000,
            size + b"\r\n" + png + b"XX0\r\n\r\n", b"0\r\n\r\n",
        ),
    )  # fmt: skip
    head = b"POST " + _pick(rng, (_PREDICT, _INFER)) + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return RawRequest("chunks", (head + body,), half_close=bool(rng.integers(2)))


def _smuggling(rng: np.random.Generator, png: bytes) -> RawRequest:
    """Two contradictory lengths of the body, or an upgrade to another protocol: at most one response."""
    hidden = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b"0\r\n\r\n" + hidden
    coding = _pick(
        rng,
        (
            b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            b"Transfer-Encoding: identity, chunked", b"X: y\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: gzip, chunked",
        ),
    )  # fmt: skip
    doubled = b"Content-Length: %d\r\nContent-Length: 0" % len(hidden)
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + _pick(rng, (b"h2c", b"websocket", b"x\r\nHTTP2-Settings: AAMA"))
    headers = _pick(rng, (coding, doubled, upgrade))
    return RawRequest("smuggling", (_post(_PREDICT, chunked, headers),), max_responses=1)


def _pipelines(rng: np.random.Generator, png: bytes) -> RawRequest:
    count = int(rng.integers(2, 9))
    requests = [
        _post(_PREDICT, png) if rng.integers(2) else b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
        for _ in range(count)
    ]
    return RawRequest(
        "pipeline", (b"".join(requests) + (_junk(rng, 30) if rng.integers(2) else b""),), max_responses=count + 1
    )


def _slow(rng: np.random.Generator, png: bytes) -> RawRequest:
    whole = _post(_PREDICT, png)
    cuts = sorted(int(c) for c in rng.integers(0, len(whole), 6))
    pieces = tuple(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    return RawRequest("slow sender", pieces, max_responses=1, pause_s=0.01)


def _leaving(rng: np.random.Generator, png: bytes) -> RawRequest:
    whole = _post(_pick(rng, (_PREDICT, _INFER)), png)
    return RawRequest("left half-way", (whole[: int(rng.integers(len(whole)))],), half_close=True)


def _infer(rng: np.random.Generator, png: bytes) -> RawRequest:
    """Bodies of the Open Inference Protocol with a wrong length header."""
    binary = len(png).to_bytes(4, "little") + png
    size = _pick(
        rng,
        (
            b"0",
            b"-1",
            b"1",
            str(len(binary)).encode(),
            str(len(binary) + 1).encode(),
            b"99999999999999",
            b"null",
            b'"x"',
            b"1.5",
        ),
    )
    shape = _pick(
        rng, (b"[1]", b"[2]", b"[-1]", b"[]", b"[0]", b"[99999999999]", b"[1,3,16,16]", b'["1"]', b"null", b"[true]")
    )
    name, kind = (
        (b"IMAGE", b"BYTES") if rng.integers(2) else (b"PIXELS", _pick(rng, (b"UINT8", b"FP32", b"BYTES", b"")))
    )
    data = b64encode(png)
    tensor = b'{"name":"%s","datatype":"%s","shape":%s,' % (name, kind, shape)
    tensor += _pick(
        rng,
        (
            b'"parameters":{"binary_data_size":%s}}' % size, b'"data":["%s"]}' % data, b'"data":[[1,2],[3]]}',
            b'"data":null}',
            b'"data":[%s]}' % b",".join([b"300"] * 768), b'"data":[%s]}' % b",".join([b"7"] * 768),
            b'"data":%s%s}' % (b"[" * 500, b"]" * 500),
        ),
    )  # fmt: skip
    outputs = _pick(
        rng,
        (
            b"", b',"outputs":[]', b',"outputs":[{"name":"label","parameters":{"binary_data":true}}]',
            b',"outputs":[{"name":"none"}]', b',"outputs":7', b',"parameters":{"binary_data_output":true}',
            b',"id":' + json.dumps("x" * 3000).encode(),
        ),
    )  # fmt: skip
    header = b'{"inputs":[' + b",".join([tensor] * int(rng.integers(0, 4))) + b"]" + outputs + b"}"
    length = _pick(
        rng,
        (
            str(len(header)).encode(),
            str(len(header) - 1).encode(),
            str(len(header) + 1).encode(),
            b"0",
            b"-1",
            b"99999999999",
            b"x",
            b"",
            b"1 2",
        ),
    )
    claimed = b"Inference-Header-Content-Length: " + length
    return RawRequest("lying tensors", (_post(_INFER, header + binary, claimed),), max_responses=1)


KINDS: dict[str, Callable[[np.random.Generator, bytes], RawRequest]] = {
    "request line": _request_lines,
    "method": _methods,
    "header": _headers,
    "length": _lengths,
    "chunks": _chunks,
    "smuggling": _smuggling,
    "pipeline": _pipelines,
    "slow sender": _slow,
    "left half-way": _leaving,
    "lying tensors": _infer,
}
