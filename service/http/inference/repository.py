"""The served models by name, each with its own queue and thread, each replaceable without losing a request.

A request is assigned one version of its model before its body is read, and keeps it until its response. A replaced
version scores the images assigned to it, then ends.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from detector.artifact import Artifact
from models.errors import InputError, PlumblineError
from service.http.batching.errors import ScoringError
from service.http.errors import UnavailableError
from service.http.inference.capacity import Capacity
from service.http.inference.decoders import Decoders
from service.http.inference.limits import check_limits
from service.http.inference.model import ModelSource, ServedModel
from service.http.inference.scoring import Inference
from service.http.observability.metrics import Metrics
from service.http.paths import MAX_NAME_LENGTH, is_model_name
from service.http.settings import Settings

__all__ = ["ModelRepository"]

logger = logging.getLogger("plumbline.models")

# Idle threads end at once; they get this time even if the drain timeout has passed.
_MIN_STOP_S = 1.0
_POLL_S = 0.1


class ModelRepository:
    """Models by name; call `start` before and `stop` after use, on the event loop.

    Args:
        sources: by name; the first is the default for requests without a name.
        settings: the limits; they apply to each model separately.
        metrics: of the server.
        record: is called with the outcome of each reload; None: nothing is called.

    Raises:
        InputError: no model, an invalid name, or limits that are too low for a model.
    """

    def __init__(
        self,
        sources: Mapping[str, ModelSource],
        settings: Settings,
        metrics: Metrics,
        *,
        record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        if not sources:
            raise InputError("expected at least one artifact to serve, got none")
        for name in sources:
            if not is_model_name(name):
                raise InputError(
                    f"expected a model name of 1 to {MAX_NAME_LENGTH} letters, digits, dots, hyphens and underscores "
                    f"that starts with a letter or digit, got {name!r}; set it with --artifact NAME=PATH"
                )
        self._sources = dict(sources)
        self._settings = settings
        self._server_metrics = metrics
        self._record = record
        self._metrics = {name: metrics.of_model(name) for name in sources}
        self._capacities = {name: Capacity(settings.max_queue_images, settings.max_queue_bytes) for name in sources}
        self._torch_threads = max(1, settings.torch_threads // len(sources))
        self._decoders: Decoders | None = None
        self._current: dict[str, ServedModel] = {}
        self._retiring: dict[asyncio.Task[None], ServedModel] = {}
        self._reloading = asyncio.Lock()
        self.draining = False
        self.end_by: float | None = None  # on the monotonic clock; None: `stop` takes drain_timeout_s from its call
        self.ended = True
        self._failed: str | None = None  # stored: an abandoned version may be gone before the process ends
        for name, source in sources.items():
            check_limits(name, source.artifact, settings)
            self._watch(name)

    @property
    def names(self) -> list[str]:
        """The models' names; the first is the default."""
        return list(self._sources)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([self._current[name] for name in self._sources if name in self._current])

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel | None:
        """The model `name`, by default the first; None if it, or this version of it, is not served."""
        model = self._current.get(self.names[0] if name is None else name)
        return None if model is None or version not in (None, model.version) else model

    @property
    def ready(self) -> bool:
        """Whether all models are ready and the server is not draining."""
        return (
            not self.draining
            and len(self._current) == len(self._sources)
            and all(model.inference.ready for model in self)
        )

    @property
    def started(self) -> bool:
        """Whether at least one model is in memory."""
        return bool(self._current)

    @property
    def failed(self) -> str | None:
        """Reason to end the process, or None."""
        for model in self._running():
            if reason := model.inference.failed:
                replaced = "" if self._current.get(model.name) is model else f" {model.version}, which was replaced"
                return f"{model.name}{replaced}: {reason}"
        return self._failed

    @property
    def retiring(self) -> int:
        """Number of replaced versions that have not ended."""
        return len(self._retiring)

    def abandon(self) -> None:
        """Give up every dead or stuck model; its waiting requests get a 503."""
        self._failed = self.failed
        for model in self._running():
            if model.inference.failed:
                model.abandon()

    def _running(self) -> list[ServedModel]:
        """Every version that may still score images, replaced ones included."""
        return [*self, *self._retiring.values()]

    async def start(self) -> None:
        """Start all models.

        Raises:
            ScoringError, UnavailableError: a network fails on a blank image.
        """
        self._decoders = Decoders(self._settings.decode_threads, self._settings.max_pixels)
        for name, source in self._sources.items():
            self._put(await self._started(name, source.artifact))

    async def stop(self) -> None:
        """Score the queued images, then end all threads; ``ended`` is False if a thread does not end in time."""
        end_by = time.monotonic() + self._settings.drain_timeout_s if self.end_by is None else self.end_by
        running = {asyncio.create_task(model.inference.stop()) for model in self} | set(self._retiring)
        at_least_by = time.monotonic() + _MIN_STOP_S
        while running and time.monotonic() < max(at_least_by, 0.0 if self.failed else end_by):
            done, running = await asyncio.wait(running, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and (exc := task.exception()) is not None:
                    logger.error("stopping a model failed", exc_info=exc)
        if running:
            self.ended = False
            logger.error("%d inference threads did not end in time", len(running))
        self._current.clear()
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)

    async def reload(self) -> None:
        """Read every artifact again and serve the changed ones; a refused artifact leaves the current version in place.

        No request is lost: a new version replaces the current one only after it has scored an image.
        """
        async with self._reloading:
            for name, source in self._sources.items():
                if source.load is not None and name in self._current and not self.draining:
                    outcome = await self._reload_one(name, source.load)
                    self._server_metrics.reloads.labels(name, outcome).inc()
                    if self._record is not None:
                        version = self._current[name].version
                        self._record({"event": "reload", "model": name, "outcome": outcome, "version": version})

    async def _reload_one(self, name: str, load: Callable[[], Artifact]) -> str:
        old = self._current[name]
        try:
            artifact = await asyncio.to_thread(load)
            if artifact.digest == old.artifact.digest:
                logger.info("%s keeps version %s: the artifact is unchanged", name, old.version)
                return "unchanged"
            check_limits(name, artifact, self._settings)
            new = await self._started(name, artifact)
        except (PlumblineError, OSError, ScoringError, UnavailableError) as exc:
            logger.error("%s keeps version %s: the new artifact is refused: %s", name, old.version, exc)
            return "refused"
        except Exception:  # a defect; the current version must survive it
            logger.exception("%s keeps version %s: the new artifact failed", name, old.version)
            return "refused"
        self._put(new)
        self._sources[name].artifact = artifact
        task = asyncio.create_task(old.retire(), name=f"plumbline-retire-{name}")
        self._retiring[task] = old
        task.add_done_callback(lambda done: self._retiring.pop(done, None))
        logger.info("%s has version %s now; the previous version was %s", name, new.version, old.version)
        return "replaced"

    def _put(self, model: ServedModel) -> None:
        old = self._current.get(model.name)
        if old is not None:
            self._server_metrics.info.remove(model.name, old.version)
        self._current[model.name] = model
        self._server_metrics.info.labels(model.name, model.version).set(1)

    async def _started(self, name: str, artifact: Artifact) -> ServedModel:
        assert self._decoders is not None
        metrics, capacity = self._metrics[name], self._capacities[name]
        inference = Inference(
            artifact,
            self._settings,
            metrics,
            self._decoders,
            torch_threads=self._torch_threads,
            in_flight=lambda: capacity.images,
        )
        await inference.start()
        return ServedModel(name, artifact, inference, capacity, metrics)

    def _watch(self, name: str) -> None:
        def of_current(read: Callable[[ServedModel], float]) -> Callable[[], float]:
            return lambda: read(self._current[name]) if name in self._current else 0.0

        capacity = self._capacities[name]
        self._metrics[name].watch(
            queued=of_current(lambda model: model.inference.queued),
            images=lambda: capacity.images,
            size=lambda: capacity.bytes,
            limit=of_current(lambda model: model.inference.max_batch_size),
            ready=of_current(lambda model: model.inference.ready),
        )
