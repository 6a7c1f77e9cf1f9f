"""The settings of a server, from the environment (PLUMBLINE_…) and the command line."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import InputError
from models.images.policy import MAX_PIXELS

__all__ = ["Settings", "read_settings", "unknown_variables"]

_MIB = 1024 * 1024


def _decode_threads() -> int:
    # Decoding releases the interpreter lock, but competes with torch for cores.
    return max(1, min(8, (os.cpu_count() or 2) // 2))


def _torch_threads() -> int:
    # One core remains for HTTP and decoding: a forward pass waits for its slowest thread.
    return max(1, (os.cpu_count() or 2) - 1)


class Settings(BaseSettings):
    """Frozen settings of one server.

    The environment variable ``PLUMBLINE_NAME`` sets the field `name`; an argument overrides it.

    Raises:
        pydantic.ValidationError: a value is out of range, or a setting is unknown.
    """

    model_config = SettingsConfigDict(env_prefix="PLUMBLINE_", frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs keys or `insecure`")
    port: int = Field(8000, ge=0, le=65535, description="0: any free port, which is logged")
    api_keys_file: Path | None = Field(
        None, description="file with one key per line, for every route but health and page"
    )
    insecure: bool = Field(False, description="allow other addresses than loopback without keys")
    admin_host: str = Field(
        "127.0.0.1",
        description="address of metrics and status; as `host`",
    )
    admin_port: int = Field(8001, ge=0, le=65535, description="0: any free port, which is logged")
    admin_keys_file: Path | None = Field(None, description="file with the keys of the admin port")
    examples: Path | None = Field(None, description="folder of example images on the web page")
    state: Path | None = Field(None, description="folder that stores the calibration watch between restarts")
    store: Path | None = Field(None, description="SQLite file of the served verdicts")
    store_days: float = Field(30.0, gt=0, description="maximum age of a stored verdict")
    store_max_bytes: int = Field(
        1024 * _MIB, ge=_MIB, description="maximum size of the store; the oldest rows are deleted"
    )
    keep_flagged: Path | None = Field(None, description="folder that keeps flagged and sampled images for reviewers")
    keep_max_bytes: int = Field(1024 * _MIB, ge=_MIB, description="maximum size of the kept images")
    sample_for_review: float = Field(0.0, ge=0, le=1, description="share of all images that is kept for review")
    review_keys_file: Path | None = Field(None, description="file with the keys of reviewers; None: the admin keys")
    webhook: str | None = Field(None, description="URL for warnings and pages of the calibration watch")
    webhook_secret_file: Path | None = Field(None, description="file with the secret that signs them: whsec_BASE64")
    sessions_bytes: int = Field(256 * _MIB, ge=0, description="memory for the recognition of query attacks; 0: off")
    sessions_ttl_s: float = Field(
        86_400.0, gt=0, description="seconds without a query after which the queries of a key are deleted"
    )
    sessions_allowed_keys: str = Field(
        "", description="names of keys, separated by commas, whose queries are not compared"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field("text", description="json: one object per line")
    access_log: bool = Field(False, description="log one line per request")
    telemetry: bool = Field(False, description="OpenTelemetry spans; needs plumbline[telemetry]")

    max_batch_size: int = Field(64, ge=1, le=1024, description="maximum number of images in one forward pass")
    max_queue_delay_ms: float = Field(1.0, ge=0, le=1000, description="maximum time to wait for a batch to fill, in ms")
    torch_threads: int = Field(default_factory=_torch_threads, ge=1, le=256)
    decode_threads: int = Field(default_factory=_decode_threads, ge=1, le=64)

    max_queue_images: int = Field(1024, ge=1, description="maximum number of images in progress")
    max_queue_bytes: int = Field(256 * _MIB, ge=1, description="maximum number of their bytes, as sent and as decoded")
    max_images_per_request: int = Field(256, ge=1)
    max_body_bytes: int = Field(32 * _MIB, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="maximum width × height of one image")
    max_header_bytes: int = Field(16 * 1024, ge=256)
    max_header_count: int = Field(64, ge=1)

    max_connections: int = Field(1024, ge=1, description="maximum number of open connections; others are refused")
    header_timeout_s: float = Field(10.0, gt=0, description="from a request's first byte to the end of its headers")
    receive_timeout_s: float = Field(30.0, gt=0, description="from a request's headers to the end of its body")
    receive_grace_s: float = Field(5.0, gt=0, description="total time that a body may be slower than the rate")
    min_receive_rate: int = Field(16 * 1024, ge=1, description="bytes per second of a body, after the grace time")
    send_timeout_s: float = Field(30.0, gt=0, description="for a client to read its response")
    request_timeout_s: float = Field(30.0, gt=0, description="from the end of a request's body to its response")
    hang_timeout_s: float = Field(60.0, gt=0, description="a batch that takes longer ends the process with 70")
    canary_interval_s: float = Field(10.0, ge=0, description="time between canary images; 0: none")
    shutdown_grace_s: float = Field(0.5, ge=0, description="from SIGTERM (not ready) to the end of the listener")
    drain_timeout_s: int = Field(60, ge=1, description="for the accepted requests to complete")

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.max_body_bytes > self.max_queue_bytes:
            raise ValueError(
                f"expected max_body_bytes at most max_queue_bytes, got {self.max_body_bytes} and "
                f"{self.max_queue_bytes}: the largest allowed request could never be accepted"
            )
        if 0 < self.sessions_bytes < 16 * _MIB:
            raise ValueError(f"expected sessions_bytes 0 or at least 16 MiB, got {self.sessions_bytes}")
        if (self.webhook is None) != (self.webhook_secret_file is None):
            raise ValueError("expected webhook and webhook_secret_file together, got one of them")
        for name, needed in (("keep_flagged", "store"), ("sample_for_review", "keep_flagged")):
            if getattr(self, name) and getattr(self, needed) is None:
                raise ValueError(f"expected {needed} with {name}, got {name} alone")
        if self.max_images_per_request > self.max_queue_images:
            raise ValueError(
                f"expected max_images_per_request at most max_queue_images, got {self.max_images_per_request} and "
                f"{self.max_queue_images}: the largest allowed request could never be accepted"
            )
        return self


def read_settings(**arguments: Any) -> Settings:
    """Settings from the environment, overridden by the arguments that are not None.

    Raises:
        InputError: a value is out of range, or a setting is unknown.
    """
    try:
        return Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}, got {problem['input']!r}"
            for problem in exc.errors(include_url=False)
        )
        raise InputError(f"invalid settings: {problems}; see docs/http-api.md, Settings") from exc


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Environment variables with the prefix of settings that are not settings, each with the most similar setting."""
    prefix = Settings.model_config["env_prefix"]
    known = [f"{prefix}{name}".upper() for name in Settings.model_fields]
    unknown = []
    for name in sorted(environment):
        if name.upper().startswith(prefix) and name.upper() not in known:
            near = get_close_matches(name.upper(), known, n=1, cutoff=0.8)
            unknown.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return unknown
