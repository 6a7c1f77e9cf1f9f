"""The process: two ports, signals, and an orderly shutdown.

On SIGTERM or SIGINT the server reports not ready at once, but continues for `shutdown_grace_s`, so that load balancers
notice before the listener closes; responses then end their connections. Afterwards no connection is accepted, accepted
requests are completed, and the process exits with 0. A second signal skips the grace period, a third one the waiting.
SIGHUP reloads the artifacts. If an inference thread dies or is stuck, waiting requests get an error and the process
exits with 70, so that its supervisor restarts it; the check continues until the end of the drain.
"""

import asyncio
import gc
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
from service.http.connection.descriptors import allow_descriptors
from service.http.connection.protocol import bounded_protocol
from service.http.connection.reload_signal import ReloadSignal, caught_reload_signals
from service.http.inference.model import ModelSource
from service.http.inference.repository import ModelRepository
from service.http.observability.logs import set_up_logging
from service.http.server.addresses import check_exposure, log_addresses
from service.http.server.admin import create_admin_app, thread_stacks
from service.http.server.app import create_app
from service.http.settings import Settings, unknown_variables

__all__ = ["FAILED_EXIT_CODE", "serve"]

logger = logging.getLogger("plumbline.server")

FAILED_EXIT_CODE = 70  # EX_SOFTWARE in sysexits.h

_LAST_REQUESTS_S = 0.1
# Between the failure of an inference thread and the end of the listener: time for probes and waiting clients.
_FAILED_GRACE_S = 1.0
_FAILED_DRAIN_S = 5
_CHECK_S = 0.1  # between checks of the inference threads during the drain


def serve(
    models: Artifact | Mapping[str, ModelSource], settings: Settings, *, reload_signal: ReloadSignal | None = None
) -> None:
    """Serve verdicts of `models` over HTTP until a signal arrives.

    Args:
        models: see `create_app`.
        settings: addresses, limits and options.
        reload_signal: records SIGHUP since before the call; if it has arrived, the artifacts are reloaded after the
            start. None: SIGHUP is recorded from this call on.

    Raises:
        InputError: an address is not loopback and has neither keys nor `insecure`; the limits contradict each other;
            the keys cannot be read.
        SystemExit: an address cannot be bound, or a network fails on a blank image; the log has the reason.
    """
    check_exposure(settings)
    set_up_logging(settings)
    if unknown := unknown_variables(os.environ):
        # Not an error: Kubernetes sets such variables for a service of this name.
        logger.warning("unknown settings in the environment: %s; see docs/http-api.md, Settings", ", ".join(unknown))
    allow_descriptors(settings.max_connections)
    app = create_app(models, settings)
    repository: ModelRepository = app.state.repository
    admin = create_admin_app(
        repository, app.state.metrics, app.state.watch, settings, app.state.recorder, app.state.queries
    )
    common: dict[str, Any] = {
        "http": bounded_protocol(settings, app.state.metrics),
        "ws": "none",
        "log_config": None,
        # The guard writes one, with request ids.
        "access_log": False,
        # Neither trust a proxy's client address, nor reveal the server's software.
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
        try:
            server.run()
        finally:
            gc.unfreeze()  # so that the interpreter frees all objects at its end; extension modules report the others


class _AdminServer(uvicorn.Server):
    """The server of the admin port, without signal handlers of its own."""

    def capture_signals(self) -> Any:
        raise AssertionError("only the main server handles signals")


class _Server(uvicorn.Server):
    """uvicorn's server with readiness, a grace period before the shutdown, and the admin port."""

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
        self._give_up_at = float("inf")  # exit then, whatever is unfinished
        self._reload_signal = reload_signal
        self._reloads: set[asyncio.Task[None]] = set()
        self._retiring = 0

    async def serve(self, sockets: Any = None) -> None:
        await super().serve(sockets)
        if self.failure is None and self._repository.ended and not self._reloads:
            return
        if self.failure is not None:
            logger.critical("exiting: %s", self.failure)
        logging.shutdown()
        # A regular exit would wait for a stuck thread.
        os._exit(FAILED_EXIT_CODE if self.failure is not None else 0)

    async def startup(self, sockets: Any = None) -> None:
        self._admin.config.load()
        self._admin.lifespan = self._admin.config.lifespan_class(self._admin.config)
        await self._admin.startup()  # first, so that metrics are available while the models start
        try:
            await super().startup(sockets)
        except SystemExit:  # the port is in use; an open listener could keep the event loop from ending
            await self._admin.shutdown()
            raise
        if not self.started:
            return
        _freeze_objects()
        self._watch_reload_signal()
        log_addresses(self, self._admin, self._settings)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Runs between two byte codes of the main thread: flags only, no locks, no logging.
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
        # A new connection may have a request in transit; uvicorn would close it unread.
        await asyncio.sleep(_LAST_REQUESTS_S)
        for reload in self._reloads:
            reload.cancel()
        drain_s = self._settings.drain_timeout_s
        end_by = time.monotonic() + (drain_s if self.failure is None else min(_FAILED_DRAIN_S, drain_s))
        self._repository.end_by = end_by
        drained = asyncio.create_task(super().shutdown(sockets), name="plumbline-drain")
        while not drained.done() and time.monotonic() < self._give_up_at:
            await asyncio.wait([drained], timeout=_CHECK_S)
            self._check_threads()
        if drained.done():
            drained.result()
        # Last, so that metrics are available during the drain.
        if self._admin.started:
            self._admin.force_exit = self.force_exit
            self._admin.config.timeout_graceful_shutdown = max(1, round(end_by - time.monotonic()))
            await self._admin.shutdown()

    async def on_tick(self, counter: int) -> bool:
        self._check_threads()
        if self._exit_at is not None and time.monotonic() >= self._exit_at:
            self.should_exit = True
        if self._repository.retiring < self._retiring:
            _freeze_objects()  # those of an ended version are not frozen
        self._retiring = self._repository.retiring
        await self._admin.on_tick(counter)
        return await super().on_tick(counter)

    def _check_threads(self) -> None:
        if self.failure is None and (reason := self._repository.failed) is not None:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        logger.critical("%s; the process will exit\n%s", reason, thread_stacks())
        self.failure = reason
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
            logger.info("SIGHUP is not available; artifacts cannot be reloaded")
        if self._reload_signal.take():
            self._start_reload()

    def _start_reload(self) -> None:
        if self._repository.draining:
            return
        logger.info("SIGHUP: reloading the artifacts")
        if len(self._reloads) > 1:
            return  # one reload runs, and the waiting one will read the same files
        reload = asyncio.get_running_loop().create_task(self._repository.reload(), name="plumbline-reload")
        self._reloads.add(reload)
        reload.add_done_callback(self._reloads.discard)
        reload.add_done_callback(lambda _: _freeze_objects())


def _freeze_objects() -> None:
    """Collect garbage, exclude the remaining objects from later collections, and enable collections.

    Libraries and models are some 400,000 objects, and a full collection of them delays every waiting request.
    """
    gc.unfreeze()  # those of a replaced version
    gc.collect()
    gc.freeze()
    gc.enable()
