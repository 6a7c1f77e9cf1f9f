"""Running the application: two sockets, signals, an orderly end.

On SIGTERM or SIGINT the server is not ready at once, but goes on answering for `shutdown_grace_s`, so that a load
balancer sees it before the listener closes; answers then end their connections. After that nothing new is accepted,
what was accepted is answered, and the process ends with 0. A second signal skips the grace, a third one the waiting.
SIGHUP reads the artifacts again. Once an inference thread has died or hangs for good, everybody is answered and the
process ends with 70, for its supervisor to start it anew; that it hangs is seen to the very end of the drain.
"""

import asyncio
import ipaddress
import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import FrameType
from typing import Any

import uvicorn

from detector.artifact import Artifact
from models.errors import InputError
from service.http.connection.descriptors import allow_descriptors
from service.http.connection.protocol import bounded_protocol
from service.http.connection.reload_signal import ReloadSignal, caught_reload_signals
from service.http.inference.repository import ModelRepository, ModelSource
from service.http.observability.logs import set_up_logging
from service.http.paths import PREDICT_PATH
from service.http.server.admin import create_admin_app, thread_stacks
from service.http.server.app import create_app
from service.http.settings import Settings, unknown_variables

__all__ = ["FAILED_EXIT_CODE", "serve"]

logger = logging.getLogger("plumbline.server")

FAILED_EXIT_CODE = 70  # EX_SOFTWARE in sysexits.h

_LAST_REQUESTS_S = 0.1
# From the failure of an inference thread to the listener's closing: probes and waiting clients hear of it.
_FAILED_GRACE_S = 1.0
_FAILED_DRAIN_S = 5
_LOOK_S = 0.1  # between looks at the inference threads while the server drains


def serve(
    models: Artifact | Mapping[str, ModelSource], settings: Settings, *, reload_signal: ReloadSignal | None = None
) -> None:
    """Answer over HTTP with the verdicts of `models` until a signal comes.

    Args:
        models: as `create_app` takes them.
        settings: addresses, limits and the rest.
        reload_signal: records SIGHUP before the start; the artifacts are then reloaded after it. None: recorded from
            this call on.

    Raises:
        InputError: an address is not loopback and there are neither keys for it nor `insecure`; the limits contradict
            each other; the keys cannot be read.
        SystemExit: an address cannot be bound, or a network cannot judge a blank image; the log says why.
    """
    _check_exposure(settings.host, settings.api_keys_file is not None, settings.insecure, "--keys FILE")
    _check_exposure(settings.admin_host, settings.admin_keys_file is not None, settings.insecure, "--admin-keys FILE")
    set_up_logging(settings)
    if unknown := unknown_variables(os.environ):
        # Not an error: an orchestrator may set some of its own, such as Kubernetes for a service of this name.
        logger.warning("variables that are no settings: %s; see docs/http-api.md, Settings", ", ".join(unknown))
    allow_descriptors(settings.max_connections)
    app = create_app(models, settings)
    repository: ModelRepository = app.state.repository
    admin = create_admin_app(repository, app.state.metrics, settings)
    common: dict[str, Any] = {
        "http": bounded_protocol(settings, app.state.metrics),
        "ws": "none",
        "log_config": None,
        # The guard writes one, with the request's id.
        "access_log": False,
        # Nobody in front is trusted to name the client, and nobody behind is told what runs here.
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": settings.drain_timeout_s,
    }
    with ExitStack() as stack:
        server = _Server(
            uvicorn.Config(app, host=settings.host, port=settings.port, lifespan="on", **common),
            uvicorn.Config(admin, host=settings.admin_host, port=settings.admin_port, lifespan="off", **common),
            repository,
            settings,
            reload_signal or stack.enter_context(caught_reload_signals()),
        )
        server.run()


class _AdminServer(uvicorn.Server):
    """The second port's server, whose signals are the first one's."""

    def capture_signals(self) -> Any:
        raise AssertionError("only the first server runs with signals")


class _Server(uvicorn.Server):
    """uvicorn's server, with readiness and a grace period ahead of its shutdown, and a second port beside it."""

    def __init__(
        self,
        config: uvicorn.Config,
        admin: uvicorn.Config,
        repository: ModelRepository,
        settings: Settings,
        reload_signal: ReloadSignal,
    ) -> None:
        super().__init__(config)
        self.failure: str | None = None
        self._admin = _AdminServer(admin)
        self._repository = repository
        self._settings = settings
        self._exit_at: float | None = None
        self._give_up_at = float("inf")  # with whatever has not ended by then
        self._reload_signal = reload_signal
        self._reloads: set[asyncio.Task[None]] = set()

    async def serve(self, sockets: Any = None) -> None:
        await super().serve(sockets)
        if self.failure is None and self._repository.ended and not self._reloads:
            return
        if self.failure is not None:
            logger.critical("ended, since %s", self.failure)
        logging.shutdown()
        # The loop's own end and the interpreter's would wait for a thread that hangs.
        os._exit(FAILED_EXIT_CODE if self.failure is not None else 0)

    async def startup(self, sockets: Any = None) -> None:
        self._admin.config.load()
        self._admin.lifespan = self._admin.config.lifespan_class(self._admin.config)
        await self._admin.startup()  # first, so that there are figures while the models start
        try:
            await super().startup(sockets)
        except SystemExit:  # a port that is taken; an event loop that ends with a listener may wait for it
            await self._admin.shutdown()
            raise
        if not self.started:
            return
        self._watch_reload_signal()
        _log_addresses(self, self._admin, self._settings)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Runs between two byte codes of the main thread: no lock, no logging, only flags.
        self._repository.draining = True
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
        for reload in self._reloads:
            reload.cancel()
        drain_s = self._settings.drain_timeout_s
        end_by = time.monotonic() + (drain_s if self.failure is None else min(_FAILED_DRAIN_S, drain_s))
        self._repository.end_by = end_by
        drained = asyncio.create_task(super().shutdown(sockets), name="plumbline-drain")
        while not drained.done() and time.monotonic() < self._give_up_at:
            await asyncio.wait([drained], timeout=_LOOK_S)
            self._look()
        if drained.done():
            drained.result()
        # Last, so that the figures can be read while the other port drains.
        if self._admin.started:
            self._admin.force_exit = self.force_exit
            self._admin.config.timeout_graceful_shutdown = max(1, round(end_by - time.monotonic()))
            await self._admin.shutdown()

    async def on_tick(self, counter: int) -> bool:
        self._look()
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        await self._admin.on_tick(counter)
        return await super().on_tick(counter)

    def _look(self) -> None:
        if self.failure is None and (why := self._repository.failed) is not None:
            self._fail(why)

    def _fail(self, why: str) -> None:
        logger.critical("%s; the process will end\n%s", why, thread_stacks())
        self.failure = why
        self._repository.draining = True
        self._repository.abandon()
        self.config.timeout_graceful_shutdown = min(_FAILED_DRAIN_S, self._settings.drain_timeout_s)
        self._exit_at = min(self._exit_at or float("inf"), time.monotonic() + _FAILED_GRACE_S)
        self._give_up_at = time.monotonic() + _FAILED_GRACE_S + 2 * _FAILED_DRAIN_S

    def _watch_reload_signal(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGHUP, self._start_reload)
        except (NotImplementedError, RuntimeError, ValueError):
            logger.info("no SIGHUP here; artifacts are read at the start only")
        if self._reload_signal.take():
            self._start_reload()

    def _start_reload(self) -> None:
        if self._repository.draining:
            return
        logger.info("SIGHUP: the artifacts are read again")
        if len(self._reloads) > 1:
            return  # one is under way, and the one that waits for it will see what this one would
        reload = asyncio.get_running_loop().create_task(self._repository.reload(), name="plumbline-reload")
        self._reloads.add(reload)
        reload.add_done_callback(self._reloads.discard)


def _check_exposure(host: str, has_keys: bool, insecure: bool, cure: str) -> None:
    if not has_keys and not insecure and not _is_loopback(host):
        raise InputError(
            f"expected API keys to listen on {host}, which others can reach, got none; give {cure}, "
            "listen on 127.0.0.1, or say --insecure if the network in front keeps strangers out"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may resolve to anything


def _log_addresses(server: uvicorn.Server, admin: uvicorn.Server, settings: Settings) -> None:
    url, admin_url = _url(server), _url(admin)
    key = ' -H "X-API-Key: $KEY"' if settings.api_keys_file else ""
    places = f"web page: {url}/, description: {url}/docs, figures: {admin_url}/metrics"
    logger.info("serving on %s (%s); try", url, places)
    logger.info("curl%s --data-binary @image.png '%s%s?path=true'", key, url, PREDICT_PATH)


def _url(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
