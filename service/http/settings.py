"""What an operator can set, read once from the environment (PLUMBLINE_…) and the command line, then passed in."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import InputError

__all__ = ["Settings", "read_settings", "unknown_variables"]

_MIB = 1024 * 1024


def _decode_threads() -> int:
    # Decoding lets go of the interpreter lock, but competes with torch for cores; half of them, and never many.
    return max(1, min(8, (os.cpu_count() or 2) // 2))


def _torch_threads() -> int:
    # One core is left to HTTP and decoding: a forward pass whose threads lose theirs waits for the slowest of them.
    return max(1, (os.cpu_count() or 2) - 1)


class Settings(BaseSettings):
    """Frozen settings of one server.

    A field `name` is read from the environment variable ``PLUMBLINE_NAME``; an argument wins over it.

    Raises:
        pydantic.ValidationError: a value is out of range, or a setting is unknown.
    """

    model_config = SettingsConfigDict(env_prefix="PLUMBLINE_", frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen on; anything but loopback needs keys or `insecure`")
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port and logs it")
    api_keys_file: Path | None = Field(None, description="one key per line; with it, every route but health needs one")
    insecure: bool = Field(False, description="listen beyond loopback without keys")
    admin_host: str = Field("127.0.0.1", description="address of figures and status; beyond loopback it needs keys too")
    admin_port: int = Field(8001, ge=0, le=65535, description="0 takes any free port and logs it")
    admin_keys_file: Path | None = Field(None, description="keys of the administration, apart from the clients'")
    examples: Path | None = Field(None, description="folder of images that the web page offers")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line")
    access_log: bool = Field(False, description="a log line per request")
    telemetry: bool = Field(False, description="OpenTelemetry spans of each request; needs its packages")

    max_batch_size: int = Field(64, ge=1, le=1024, description="images in one forward pass")
    max_queue_delay_ms: float = Field(1.0, ge=0, le=1000, description="longest wait for a batch to fill, in ms")
    torch_threads: int = Field(default_factory=_torch_threads, ge=1, le=256)
    decode_threads: int = Field(default_factory=_decode_threads, ge=1, le=64)

    max_queue_images: int = Field(1024, ge=1, description="images accepted and not yet answered")
    max_queue_bytes: int = Field(256 * _MIB, ge=1, description="bytes of those images, as sent and as decoded")
    max_images_per_request: int = Field(256, ge=1)
    max_body_bytes: int = Field(32 * _MIB, ge=1)
    max_pixels: int = Field(16_000_000, ge=1, le=89_478_485, description="width times height of one image")
    max_header_bytes: int = Field(16 * 1024, ge=256)
    max_header_count: int = Field(64, ge=1)

    max_connections: int = Field(1024, ge=1, description="open at a time; more are closed at once")
    header_timeout_s: float = Field(10.0, gt=0, description="from a request's first byte to the end of its headers")
    receive_timeout_s: float = Field(30.0, gt=0, description="from a request's headers to the end of its body")
    receive_grace_s: float = Field(5.0, gt=0, description="silence or slowness of a body that is borne in all")
    min_receive_rate: int = Field(16 * 1024, ge=1, description="bytes per second of a body, beyond that grace")
    send_timeout_s: float = Field(30.0, gt=0, description="for a client that does not read its answer")
    request_timeout_s: float = Field(30.0, gt=0, description="from the end of a request's body to its answer")
    hang_timeout_s: float = Field(60.0, gt=0, description="a batch that takes longer ends the process")
    canary_interval_s: float = Field(10.0, ge=0, description="between images judged to see that all works; 0: never")
    shutdown_grace_s: float = Field(0.5, ge=0, description="from SIGTERM (not ready at once) to the listener's closing")
    drain_timeout_s: int = Field(60, ge=1, description="for what was accepted before the listener closed")

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.max_body_bytes > self.max_queue_bytes:
            raise ValueError(
                f"expected max_body_bytes at most max_queue_bytes, got {self.max_body_bytes} and "
                f"{self.max_queue_bytes}: the largest allowed request could never be accepted"
            )
        if self.max_images_per_request > self.max_queue_images:
            raise ValueError(
                f"expected max_images_per_request at most max_queue_images, got {self.max_images_per_request} and "
                f"{self.max_queue_images}: the largest allowed request could never be accepted"
            )
        return self


def read_settings(**given: Any) -> Settings:
    """Settings from the environment, overridden by what is given and not None.

    Raises:
        InputError: a value is out of range, or a setting is unknown.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg']}, got {problem['input']!r}"
            for problem in exc.errors(include_url=False)
        )
        raise InputError(f"expected valid settings, got {problems}; see docs/http-api.md, Settings") from exc


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """What a server would pass over: variables named like settings that are none, each with the setting it is near."""
    prefix = Settings.model_config["env_prefix"]
    known = [f"{prefix}{name}".upper() for name in Settings.model_fields]
    found = []
    for name in sorted(environment):
        if name.upper().startswith(prefix) and name.upper() not in known:
            near = get_close_matches(name.upper(), known, n=1, cutoff=0.8)
            found.append(f"{name} (meant as {near[0]}?)" if near else name)
    return found
