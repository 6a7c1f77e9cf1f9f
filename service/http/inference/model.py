"""One version of one served model, and the source of its next version."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from detector.artifact import Artifact
from service.http.errors import NotReadyError
from service.http.inference.capacity import Capacity, Ticket
from service.http.inference.scoring import Inference
from service.http.observability.metrics import ModelMetrics

__all__ = ["ModelSource", "ServedModel"]

_VERSION_LENGTH = 12
_POLL_S = 0.1


@dataclass
class ModelSource:
    """An artifact, and a function that reads it again.

    Args:
        artifact: the current version; a reload replaces it, so that the previous version leaves memory.
        load: reads and verifies the artifact again; None: it cannot be reloaded.
    """

    artifact: Artifact
    load: Callable[[], Artifact] | None = None


class ServedModel:
    """One version of one model.

    Args:
        name: of the model.
        artifact: the version's artifact.
        inference: its threads.
        capacity: shared by all versions of the model.
        metrics: shared by all versions of the model.
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

    @contextmanager
    def admit(self, body_bytes: int) -> Iterator[Ticket]:
        """Inside, capacity for one image and `body_bytes` bytes is reserved, and this version does not retire.

        Raises:
            NotReadyError: the inference thread does not run.
            OverloadedError: the capacity is exhausted.
        """
        if not self.inference.alive:  # a stalled one may recover, and the queue is bounded
            raise NotReadyError
        with self.capacity.admit(1, body_bytes + self.inference.image_bytes) as ticket:
            self._users += 1
            self._unused.clear()
            try:
                yield ticket
            finally:
                self._users -= 1
                if not self._users:
                    self._unused.set()

    async def retire(self) -> None:
        """Stop the canary, wait for the admitted requests, then end the threads."""
        self.inference.stop_canary()
        await self._unused.wait()
        await self.inference.stop()
        # A stuck thread stays visible until the process ends because of it.
        while self.inference.stalled and not self._abandoned:
            await asyncio.sleep(_POLL_S)

    def abandon(self) -> None:
        """Give up a dead or stuck thread; its waiting requests get a 503."""
        self._abandoned = True
        self.inference.abandon()

    def status(self) -> dict[str, Any]:
        """The fields of `service.http.schemas.v1.ModelStatus`."""
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
