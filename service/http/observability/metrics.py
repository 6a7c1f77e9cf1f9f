"""The metrics of one server, in a registry of their own, so that several applications in a process do not mix."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Latency", "Metrics", "ModelMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_RECENT_S = 60.0
_RECENT_REQUESTS = 4096


@dataclass(frozen=True)
class Latency:
    """Quantiles of the duration of recent requests, in milliseconds; None without requests."""

    p50: float | None
    p99: float | None
    count: int


class Metrics:
    """The metrics of one server; metrics of a model have its name as a label."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "plumbline_requests", "Responses, by route and status", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "plumbline_request_seconds",
            "Time from the headers to the end of the response, by route",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._of_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.in_flight = Gauge("plumbline_requests_in_flight", "Requests in progress", registry=registry)
        self.errors = Counter(
            "plumbline_errors", "Images and requests refused or failed, by reason", ["reason"], registry=registry
        )
        self.connections = Gauge("plumbline_connections", "Open connections", registry=registry)
        self.connections_refused = Counter(
            "plumbline_connections_refused",
            "Connections ended by the server's limits, by reason",
            ["reason"],
            registry=registry,
        )
        model = ["model"]
        self.images = Counter("plumbline_images", "Images scored", model, registry=registry)
        self.flagged = Counter("plumbline_images_flagged", "Images flagged", model, registry=registry)
        self.decode_seconds = Histogram(
            "plumbline_decode_seconds", "Decoding and preprocessing of one image", buckets=_SECONDS, registry=registry
        )
        self.decode_queued = Gauge("plumbline_decode_queue_length", "Files in the decoding queue", registry=registry)
        self.queue_seconds = Histogram(
            "plumbline_queue_seconds",
            "Time of an image in the queue of the network",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "plumbline_inference_seconds",
            "Time of one batch in network and detector",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "plumbline_batch_size", "Images per batch", model, buckets=_SIZES, registry=registry
        )
        self.batch_limit = Gauge(
            "plumbline_batch_limit",
            "Maximum number of images in a batch; decreases when memory runs out",
            model,
            registry=registry,
        )
        self.queued = Gauge("plumbline_queue_length", "Images in the queue of the network", model, registry=registry)
        self.admitted_images = Gauge("plumbline_admitted_images", "Images in progress", model, registry=registry)
        self.admitted_bytes = Gauge("plumbline_admitted_bytes", "Bytes in progress", model, registry=registry)
        self.ready = Gauge("plumbline_model_ready", "1 if the model scores images", model, registry=registry)
        self.info = Gauge("plumbline_model_info", "1 for the current version", ["model", "version"], registry=registry)
        self.canaries = Counter(
            "plumbline_canaries", "Canary images scored, by outcome", ["model", "outcome"], registry=registry
        )
        self.reloads = Counter(
            "plumbline_reloads", "Reloads of artifacts, by outcome", ["model", "outcome"], registry=registry
        )
        series = ["model", "series"]
        self.watch_images = Gauge(
            "plumbline_watch_images", "Images compared with the calibration", series, registry=registry
        )
        self.watch_flag_rate = Gauge(
            "plumbline_watch_flag_rate", "Share of flags, an average over about 250 images", series, registry=registry
        )
        self.watch_log10_e = Gauge(
            "plumbline_watch_log10_e",
            "log10 of the e-value against a match with the calibration, by test",
            [*series, "test"],
            registry=registry,
        )
        self.watch_level = Gauge(
            "plumbline_watch_level", "0: images match the calibration; 1: warning; 2: page", series, registry=registry
        )
        self.watch_alarms = Counter(
            "plumbline_watch_alarms",
            "Warnings and pages of the calibration watch",
            ["model", "kind"],
            registry=registry,
        )
        self.watch_dropped = Counter(
            "plumbline_watch_dropped", "Images that the calibration watch did not see", registry=registry
        )
        self.query_sessions = Counter(
            "plumbline_query_sessions", "Sessions of at least eight similar queries", ["model"], registry=registry
        )
        self.query_attacks = Counter(
            "plumbline_query_attacks", "Sessions recognised as attacks, by rule", ["model", "rule"], registry=registry
        )
        self.query_records = Gauge("plumbline_query_records", "Queries in memory", registry=registry)
        self.query_dropped = Counter(
            "plumbline_query_dropped", "Images that were not compared with other queries", registry=registry
        )
        self.webhooks = Counter(
            "plumbline_webhooks", "Events for the webhook, by outcome", ["outcome"], registry=registry
        )
        self.store_verdicts = Counter(
            "plumbline_store_verdicts", "Verdicts for the store, by outcome", ["outcome"], registry=registry
        )
        self.store_images = Counter(
            "plumbline_store_images", "Images to keep for review, by outcome", ["outcome"], registry=registry
        )
        self.store_bytes = Gauge("plumbline_store_bytes", "Size of the store", registry=registry)
        self.reviews = Gauge(
            "plumbline_reviews", "Images that reviewers decided on", ["model", "group"], registry=registry
        )
        self.review_rate = Gauge(
            "plumbline_review_rate",
            "Precision of flags, and share of missed images in the random sample, with 95 % interval",
            ["model", "group", "bound"],
            registry=registry,
        )
        for outcome in ("sent", "failed", "dropped"):
            self.webhooks.labels(outcome)
        for outcome in ("written", "failed", "dropped"):
            self.store_verdicts.labels(outcome)
            self.store_images.labels(outcome)

    def request_done(self, route: str, status: int, seconds: float) -> None:
        """Count one response; `route` is one of few templates."""
        known = self._of_route.get((route, status))
        if known is None:  # `labels` takes a lock and checks its arguments
            known = self.requests.labels(route, str(status)), self.request_seconds.labels(route)
            self._of_route[route, status] = known
        requests, request_seconds = known
        requests.inc()
        request_seconds.observe(seconds)

    def of_model(self, name: str) -> "ModelMetrics":
        """The metrics of one model."""
        return ModelMetrics(self, name)

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics of one model, whatever its version.

    Args:
        metrics: of the server.
        name: of the model; the label.
    """

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.server = metrics
        self.name = name
        self.images = metrics.images.labels(name)
        self.flagged = metrics.flagged.labels(name)
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._inference_seconds = metrics.inference_seconds.labels(name)
        self._batch_size = metrics.batch_size.labels(name)
        # A counter that appears with its first event hides that event from Prometheus' rate().
        for outcome in ("right", "wrong", "failed", "late"):
            metrics.canaries.labels(name, outcome)
        for outcome in ("replaced", "unchanged", "refused"):
            metrics.reloads.labels(name, outcome)
        for kind in ("flags", "distribution", "page"):
            metrics.watch_alarms.labels(name, kind)
        metrics.query_sessions.labels(name)
        for rule in "DKNHFCB":
            metrics.query_attacks.labels(name, rule)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_REQUESTS)

    def watch(
        self,
        *,
        queued: Callable[[], float],
        images: Callable[[], float],
        size: Callable[[], float],
        limit: Callable[[], float],
        ready: Callable[[], float],
    ) -> None:
        """Set the gauges, as functions that are called at every scrape.

        Args:
            queued: images in the queue of the network.
            images: images in progress.
            size: bytes in progress.
            limit: maximum number of images in a batch.
            ready: 1 if the model scores images.
        """
        self.server.queued.labels(self.name).set_function(queued)
        self.server.admitted_images.labels(self.name).set_function(images)
        self.server.admitted_bytes.labels(self.name).set_function(size)
        self.server.batch_limit.labels(self.name).set_function(limit)
        self.server.ready.labels(self.name).set_function(ready)

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """Record one batch; see `service.http.batching.batcher.Observer`."""
        self._batch_size.observe(size)
        self._inference_seconds.observe(scored_s)
        for seconds in queued_s:
            self._queue_seconds.observe(seconds)

    def canary(self, outcome: str) -> None:
        """Count one canary image: "right", "wrong", "failed" or "late"."""
        self.server.canaries.labels(self.name, outcome).inc()

    def request_done(self, seconds: float) -> None:
        """Record the duration of one successful request."""
        self._recent.append((time.monotonic(), seconds))

    def latency(self) -> Latency:
        """Quantiles over the requests of the last minute, at most the last 4,096."""
        since = time.monotonic() - _RECENT_S
        recent = [1000 * seconds for at, seconds in tuple(self._recent) if at >= since]
        if not recent:
            return Latency(None, None, 0)
        p50, p99 = np.quantile(recent, (0.5, 0.99))
        return Latency(float(p50), float(p99), len(recent))
