"""The thread that writes served verdicts and events to the store; see docs/review.md.

A request appends its verdicts to a queue and wakes no thread. The thread empties the queue twice a second, in short
transactions, writes kept images, and deletes rows and images beyond the limits of the settings.
"""

import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from service.http.observability.metrics import Metrics
from service.http.observability.served import ServedImages
from service.http.settings import Settings
from service.monitoring.reviews.images import KeptImages
from service.monitoring.reviews.rates import review_rates
from service.monitoring.reviews.store import Store, StoredVerdict

__all__ = ["VerdictRecorder"]

logger = logging.getLogger("plumbline.store")

SessionsOf = Callable[[ServedImages], Sequence[str | None]]

_EVERY_S = 0.5
_PRUNE_EVERY_S = 60.0
_PRUNE_SHARE = 16  # of the limit of the kept images: after that many new bytes, sooner
_PIECE = 64  # images in one transaction
_PAUSE_S = 0.001
_MAX_QUEUED = 16_384  # images
_MAX_QUEUED_BYTES = 64 * 1024 * 1024  # of kept pixels
_MAX_EVENTS = 1000
_DAY_S = 86_400.0

# The verdicts of one request, whether each is in the sample, and the pixels of those to keep.
_Entry = tuple[ServedImages, list[bool], list[np.ndarray | None]]


class VerdictRecorder:
    """Writes verdicts to a store; call `start` before and `stop` after use. `stop` closes the store.

    Args:
        store: the store.
        settings: its limits, and which images are kept.
        metrics: of the server.
        sessions_of: ids of the query sessions of images, called by the thread.

    Raises:
        InputError: the folder of kept images cannot be used.
    """

    def __init__(
        self, store: Store, settings: Settings, metrics: Metrics, *, sessions_of: SessionsOf | None = None
    ) -> None:
        self.store = store
        self.images = None if settings.keep_flagged is None else KeptImages(settings.keep_flagged, store.identity)
        self._settings = settings
        self._metrics = metrics
        self._sessions_of = sessions_of
        self._queue: deque[_Entry] = deque()
        self._events: deque[Mapping[str, Any]] = deque(maxlen=_MAX_EVENTS)
        # Put by requests and taken by the thread; each has one writer, so they need no lock.
        self._put = self._taken = self._put_bytes = self._taken_bytes = 0
        self._random = random.SystemRandom()  # a client must not predict the sample
        self._draining = threading.Lock()
        self._counting = threading.Lock()
        self._reviewed = True
        self._rates: dict[str, dict[str, Any]] = {}
        self._published: set[tuple[str, ...]] = set()
        self._pruned_at = time.monotonic()
        self._unpruned_bytes = 0  # of images since then
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def observe(self, served: ServedImages, pixels: Sequence[np.ndarray]) -> None:
        """Queue the verdicts of one request; drop and count them if the queue is full."""
        count = len(served.verdicts)
        if self._put - self._taken + count > _MAX_QUEUED:
            self._metrics.store_verdicts.labels("dropped").inc(count)
            return
        rate = self._settings.sample_for_review
        sampled = [rate > 0 and self._random.random() < rate for _ in range(count)]
        kept: list[np.ndarray | None] = [None] * count
        if self.images is not None:
            for place, (verdict, image) in enumerate(zip(served.verdicts, pixels, strict=True)):
                if verdict.flagged or sampled[place]:
                    kept[place] = self._copied(image)
        self._put += count
        self._queue.append((served, sampled, kept))

    def event(self, event: Mapping[str, Any]) -> None:
        """Queue an event: a JSON object with "event", its kind, and "model" if it concerns one."""
        self._events.append(event)

    def reviewed(self) -> None:
        """Count the reviews again at the next call of `rates`."""
        self._reviewed = True

    def rates(self) -> dict[str, dict[str, Any]]:
        """The figures of `service.monitoring.reviews.rates.review_rates`; the same object if there is no new review."""
        with self._counting:
            if self._reviewed:
                self._reviewed = False  # first: a review meanwhile counts again
                self._rates = review_rates(self.store.review_counts())
            return self._rates

    def start(self) -> None:
        """Delete images without a verdict, and start the thread."""
        if self.images is not None:
            self.images.delete_others(self.store.kept_images())
        self._prune()
        self.event({"event": "start"})
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="plumbline-store", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the queued verdicts, end the thread, and close the store."""
        self.event({"event": "stop"})
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.store.close()

    def flush(self) -> None:
        """Write the verdicts and events that are queued now, so that a review of them succeeds."""
        end = self._put  # requests may add images as fast as they are written
        with self._draining:
            while self._events or (self._queue and self._taken < end):
                self._write_piece()

    def _copied(self, pixels: np.ndarray) -> np.ndarray | None:
        if self._put_bytes - self._taken_bytes + pixels.nbytes > _MAX_QUEUED_BYTES:
            self._metrics.store_images.labels("dropped").inc()
            return None
        self._put_bytes += pixels.nbytes
        return pixels.copy()  # a row of a large array would keep all of it in memory

    def _run(self) -> None:
        published: dict[str, dict[str, Any]] | None = None
        while True:
            stopping = self._stop.wait(_EVERY_S)
            try:
                self.flush()
                if self.rates() is not published:
                    published = self.rates()
                    self._publish(published)
                late = time.monotonic() - self._pruned_at >= _PRUNE_EVERY_S
                if late or self._unpruned_bytes * _PRUNE_SHARE > self._settings.keep_max_bytes:
                    self._prune()
            except Exception:  # a defect; serving goes on
                logger.exception("the store failed; it continues with the next images")
            if stopping:
                return

    def _write_piece(self) -> None:
        rows: list[StoredVerdict] = []
        while self._queue and len(rows) < _PIECE:
            rows += self._rows(*self._queue.popleft())
        events = [self._events.popleft() for _ in range(len(self._events))]
        outcome = "written"
        try:
            self.store.add(rows, events)
        except sqlite3.Error as exc:
            outcome = "failed"
            logger.error("%d verdicts were not written to the store: %s", len(rows), exc)
            if self.images is not None:
                self.images.delete(row.image for row in rows if row.image is not None)
        self._metrics.store_verdicts.labels(outcome).inc(len(rows))
        time.sleep(_PAUSE_S)  # a request never waits long for the interpreter lock

    def _rows(self, served: ServedImages, sampled: list[bool], kept: list[np.ndarray | None]) -> list[StoredVerdict]:
        self._taken += len(sampled)
        sessions = [None] * len(sampled) if self._sessions_of is None else self._sessions_of(served)
        version = served.artifact.digest[:12]
        rows = []
        for place, verdict in enumerate(served.verdicts):
            name, size = self._kept(kept[place])
            rows.append(
                StoredVerdict(
                    served.time, served.request_id, served.indices[place], served.model, version, served.key,
                    sessions[place], verdict.label, verdict.class_name, verdict.score, verdict.p_value,
                    verdict.flagged, verdict.main_component, orjson.dumps(verdict.components).decode(),
                    sampled[place], name, size, verdict.main_part, orjson.dumps(verdict.part_p_values).decode(),
                )
            )  # fmt: skip
        return rows

    def _kept(self, pixels: np.ndarray | None) -> tuple[str | None, int]:
        if pixels is None:
            return None, 0
        self._taken_bytes += pixels.nbytes
        assert self.images is not None
        try:
            kept = self.images.write(pixels)
        except OSError as exc:
            self._metrics.store_images.labels("failed").inc()
            logger.error("an image was not kept for review: %s", exc)
            return None, 0
        self._metrics.store_images.labels("written").inc()
        self._unpruned_bytes += kept[1]
        return kept

    def _prune(self) -> None:
        self._pruned_at, self._unpruned_bytes = time.monotonic(), 0
        settings = self._settings
        names = self.store.prune(
            before=time.time() - settings.store_days * _DAY_S,
            max_bytes=settings.store_max_bytes,
            max_image_bytes=settings.keep_max_bytes,
        )
        if self.images is not None:
            self.images.delete(names)
        self._reviewed = True
        self._metrics.store_bytes.set(self.store.used_bytes)

    def _publish(self, rates_of: Mapping[str, dict[str, Any]]) -> None:
        metrics = self._metrics
        current: set[tuple[str, ...]] = set()
        for model, figures in rates_of.items():
            rates = {f"precision {group}": rate for group, rate in figures["precision"].items()}
            rates |= {} if figures["missed"] is None else {"missed": figures["missed"]}
            for group, rate in rates.items():
                for bound in ("rate", "low", "high"):
                    current.add((model, group, bound))
                    metrics.review_rate.labels(model, group, bound).set(rate[bound])
                current.add((model, group))
                metrics.reviews.labels(model, group).set(rate["count"])
        for gone in self._published - current:
            (metrics.review_rate if len(gone) == 3 else metrics.reviews).remove(*gone)
        self._published = current
