"""Running the application: a socket, signals, an orderly end.

On SIGTERM or SIGINT the server is not ready at once, but goes on answering for `shutdown_grace_s`, so that a load
balancer sees it before the listener closes; answers then end their connections. After that nothing new is accepted,
what was accepted is answered, and the process ends with 0. A second signal skips the grace, a third one the waiting.
"""

import asyncio
import ipaddress
import logging
import logging.config
import time
from types import FrameType
from typing import Any

import uvicorn

from detector.artifact import Artifact
from models.errors import InputError
from service.http.app import create_app
from service.http.inference import Inference
from service.http.predict import PREDICT_PATH
from service.http.settings import Settings

__all__ = ["serve"]

logger = logging.getLogger("plumbline.server")

_LAST_REQUESTS_S = 0.1


def serve(artifact: Artifact, settings: Settings) -> None:
    """Answer over HTTP with the verdicts of `artifact` until a signal comes.

    Raises:
        InputError: the address is not loopback and there are neither API keys nor `insecure`; the limits contradict
            each other; the keys cannot be read.
        SystemExit: the address cannot be bound, or the network cannot judge a blank image; the log says why.
    """
    _check_exposure(settings)
    logging.config.dictConfig(_log_config(settings))
    app = create_app(artifact, settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=settings.access_log,
        # Nobody in front is trusted to name the client, and nobody behind is told what runs here.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    _Server(config, app.state.inference, settings).run()


class _Server(uvicorn.Server):
    """uvicorn's server, with readiness and a grace period ahead of its shutdown, and exit code 0 after it."""

    def __init__(self, config: uvicorn.Config, inference: Inference, settings: Settings) -> None:
        super().__init__(config)
        self._inference = inference
        self._settings = settings
        self._exit_at: float | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            _log_address(self.servers[0].sockets[0].getsockname(), self._settings)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Runs between two byte codes of the main thread: no lock, no logging, only flags.
        self._inference.draining = True
        if self._exit_at is None:
            self._exit_at = time.monotonic() + self._settings.shutdown_grace_s
        elif not self.should_exit:
            self.should_exit = True
        else:
            self.force_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        for server in self.servers:
            server.close()
        # A connection made just before may have its request still on the wire; uvicorn would close it unread.
        await asyncio.sleep(_LAST_REQUESTS_S)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _check_exposure(settings: Settings) -> None:
    if settings.api_keys_file is None and not settings.insecure and not _is_loopback(settings.host):
        raise InputError(
            f"expected API keys to listen on {settings.host}, which others can reach, got none; give --keys FILE, "
            "listen on 127.0.0.1, or say --insecure if the network in front keeps strangers out"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may resolve to anything


def _log_address(address: tuple[Any, ...], settings: Settings) -> None:
    host, port = address[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = ' -H "X-API-Key: $KEY"' if settings.api_keys_file else ""
    logger.info("serving on %s (description: %s/docs, figures: %s/metrics); try", url, url, url)
    logger.info("curl%s --data-binary @image.png '%s%s?path=true'", key, url, PREDICT_PATH)


def _log_config(settings: Settings) -> dict[str, Any]:
    level = settings.log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "plumbline": {"handlers": ["stderr"], "level": level, "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": level, "propagate": False},
        },
    }
