"""The models that are served, by name: each with its own queue and thread, each replaced without losing a request.

A request is given one version of its model before its body is read, and keeps it until it is answered. A version that
has been replaced judges what it was given, and only then ends.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detector.artifact import Artifact
from models.errors import InputError, PlumblineError
from service.http.errors import NotReadyError, UnavailableError
from service.http.inference.batcher import ScoringError
from service.http.inference.capacity import Capacity
from service.http.inference.decoders import Decoders
from service.http.inference.inference import Inference
from service.http.observability.metrics import Metrics, ModelMetrics
from service.http.paths import LONGEST_NAME, ImageRoute, is_model_name
from service.http.settings import Settings

__all__ = ["ModelRepository", "ModelSource", "ServedModel"]

logger = logging.getLogger("plumbline.models")

_VERSION_LENGTH = 12
# An idle thread ends in no time, and may take it even where the time to drain is up.
_END_AT_LEAST_S = 1.0
_LOOK_S = 0.1


@dataclass
class ModelSource:
    """An artifact, and where to get it again.

    Args:
        artifact: what is served; a reload puts the new one here, so that nobody keeps the old one in memory.
        load: reads the artifact again, with all its checks; None: it cannot be reloaded.
    """

    artifact: Artifact
    load: Callable[[], Artifact] | None = None


class ServedModel:
    """One version of one model.

    Args:
        name: the model's.
        artifact: what judges.
        inference: its threads.
        capacity: the bound on its work, shared by the versions of a name.
        metrics: its figures, likewise.
    """

    def __init__(
        self, name: str, artifact: Artifact, inference: Inference, capacity: Capacity, metrics: ModelMetrics
    ) -> None:
        self.name = name
        self.artifact = artifact
        self.version = artifact.digest[:_VERSION_LENGTH]
        self.inference = inference
        self.capacity = capacity
        self.metrics = metrics
        self._users = 0
        self._abandoned = False
        self._unused = asyncio.Event()
        self._unused.set()

    def enter(self) -> None:
        """Count one request that was given this version."""
        self._users += 1
        self._unused.clear()

    def leave(self) -> None:
        """Count one request less."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def retire(self) -> None:
        """End the threads once every request that was given this version is answered; the canary at once."""
        self.inference.stop_canary()
        await self._unused.wait()
        await self.inference.stop()
        # One that hangs must be seen until the process ends of it, though nobody waits for its answer.
        while self.inference.stalled and not self._abandoned:
            await asyncio.sleep(_LOOK_S)

    def abandon(self) -> None:
        """Give the thread up; whoever waits for it is answered with 503."""
        self._abandoned = True
        self.inference.abandon()

    def status(self) -> dict[str, Any]:
        """What a person wants to know at a glance, as JSON values."""
        height, width = self.inference.image_size
        latency = self.metrics.latency()
        return {
            "name": self.name,
            "version": self.version,
            "network": self.artifact.spec.name,
            "classes": len(self.artifact.pipeline.classes),
            "height": height,
            "width": width,
            "ready": self.inference.ready,
            "queued": self.inference.queued,
            "admitted_images": self.capacity.images,
            "max_images": self.capacity.max_images,
            "latency_ms": {"p50": latency.p50, "p99": latency.p99, "count": latency.count},
        }


class ModelRepository:
    """Models by name; `start` before and `stop` after use, on the event loop.

    Args:
        sources: by name; the first is the one that requests without a name get.
        settings: the limits, which hold for each model by itself.
        metrics: the server's figures.

    Raises:
        InputError: no model, a name that cannot be part of a path, or limits that contradict each other for a model.
    """

    def __init__(self, sources: Mapping[str, ModelSource], settings: Settings, metrics: Metrics) -> None:
        if not sources:
            raise InputError("expected at least one artifact to serve, got none")
        for name in sources:
            if not is_model_name(name):
                raise InputError(
                    f"expected a model's name of 1 to {LONGEST_NAME} letters, digits, dots, hyphens and underscores "
                    f"that starts with a letter or digit, got {name!r}; name it with --artifact NAME=PATH"
                )
        self._sources = dict(sources)
        self._settings = settings
        self._server_metrics = metrics
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
        self._failed: str | None = None  # kept, since a version that is given up may be gone before the process is
        for name, source in sources.items():
            self._check_limits(name, source.artifact)
            self._watch(name)

    @property
    def names(self) -> list[str]:
        """The models' names, the first one that of requests without one."""
        return list(self._sources)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([self._current[name] for name in self._sources if name in self._current])

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel | None:
        """The model of that name, by default the first; None where there is none, or not of that version."""
        model = self._current.get(self.names[0] if name is None else name)
        return None if model is None or version not in (None, model.version) else model

    def wanted(self, route: ImageRoute) -> ServedModel | None:
        """The model that a route asks for; None where the name or version is not served.

        Raises:
            UnavailableError: there is no model at all yet, or no longer.
        """
        if not self._current:
            raise NotReadyError
        return self.find(route.model, route.version)

    @property
    def ready(self) -> bool:
        """Whether all models are there and ready, and nobody asked the server to end."""
        return (
            not self.draining
            and len(self._current) == len(self._sources)
            and all(model.inference.ready for model in self)
        )

    @property
    def failed(self) -> str | None:
        """Why the process should end, or None."""
        for model in self._running():
            if why := model.inference.failed:
                replaced = "" if self._current.get(model.name) is model else f" {model.version}, which was replaced"
                return f"{model.name}{replaced}: {why}"
        return self._failed

    def abandon(self) -> None:
        """Give up every model whose thread is dead or hangs; whoever waits for it is answered with 503."""
        self._failed = self.failed
        for model in self._running():
            if model.inference.failed:
                model.abandon()

    def _running(self) -> list[ServedModel]:
        """Every version that judges or may still do so, replaced ones too."""
        return [*self, *self._retiring.values()]

    async def start(self) -> None:
        """Start all models.

        Raises:
            ScoringError, UnavailableError: a network cannot judge a blank image.
        """
        self._decoders = Decoders(self._settings.decode_threads)
        for name, source in self._sources.items():
            self._put(await self._started(name, source.artifact))

    async def stop(self) -> None:
        """Judge what is queued, then end all threads; ``ended`` says whether all did so in time."""
        end_by = time.monotonic() + self._settings.drain_timeout_s if self.end_by is None else self.end_by
        running = {asyncio.create_task(model.inference.stop()) for model in self} | set(self._retiring)
        at_least_by = time.monotonic() + _END_AT_LEAST_S
        while running and time.monotonic() < max(at_least_by, 0.0 if self.failed else end_by):
            done, running = await asyncio.wait(running, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.cancelled() and (exc := task.exception()) is not None:
                    logger.error("a model's end failed", exc_info=exc)
        if running:
            self.ended = False
            logger.error("%d inference threads did not end in time", len(running))
        self._current.clear()
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)

    async def reload(self) -> None:
        """Read every artifact again, and serve what has changed; one that is refused leaves the old one in place.

        No request is lost: the new version is started and has judged an image before it takes the old one's place.
        """
        async with self._reloading:
            for name, source in self._sources.items():
                if source.load is not None and name in self._current and not self.draining:
                    outcome = await self._reload_one(name, source.load)
                    self._server_metrics.reloads.labels(name, outcome).inc()

    async def _reload_one(self, name: str, load: Callable[[], Artifact]) -> str:
        old = self._current[name]
        try:
            artifact = await asyncio.to_thread(load)
            if artifact.digest == old.artifact.digest:
                logger.info("%s stays at version %s: its artifact is the same", name, old.version)
                return "unchanged"
            self._check_limits(name, artifact)
            new = await self._started(name, artifact)
        except (PlumblineError, OSError, ScoringError, UnavailableError) as exc:
            logger.error("%s stays at version %s, since the new artifact is refused: %s", name, old.version, exc)
            return "refused"
        except Exception:  # a defect, which must not take the old version with it
            logger.exception("%s stays at version %s, since the new artifact failed", name, old.version)
            return "refused"
        self._put(new)
        self._sources[name].artifact = artifact
        task = asyncio.create_task(old.retire(), name=f"plumbline-retire-{name}")
        self._retiring[task] = old
        task.add_done_callback(lambda done: self._retiring.pop(done, None))
        logger.info("%s is at version %s now, was %s", name, new.version, old.version)
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

        def ready() -> bool:
            return name in self._current and self._current[name].inference.ready

        self._metrics[name].watch(
            queued=of_current(lambda model: model.inference.queued),
            images=lambda: capacity.images,
            size=lambda: capacity.bytes,
            limit=of_current(lambda model: model.inference.max_batch_size),
            ready=ready,
        )

    def _check_limits(self, name: str, artifact: Artifact) -> None:
        settings = self._settings
        image_bytes = artifact.preprocessing.num_bytes
        pixels = artifact.preprocessing.height * artifact.preprocessing.width
        if pixels > settings.max_pixels:
            raise InputError(
                f"expected max_pixels of at least {pixels} for {name}, whose network takes images of that many, "
                f"got {settings.max_pixels}; raise it"
            )
        largest = settings.max_body_bytes + settings.max_images_per_request * image_bytes
        if largest > settings.max_queue_bytes:
            raise InputError(
                f"expected max_queue_bytes of at least {largest} for {name}, for one request of "
                f"{settings.max_body_bytes} bytes and {settings.max_images_per_request} images of {image_bytes} bytes, "
                f"got {settings.max_queue_bytes}; raise it, or lower max_body_bytes or max_images_per_request"
            )
