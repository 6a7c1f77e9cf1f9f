"""What /metrics tells: counters and histograms in a registry of their own, so that two apps stay apart."""

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
    """Quantiles of the time that whole requests took lately, in milliseconds; None where there were none."""

    p50: float | None
    p99: float | None
    count: int


class Metrics:
    """One server's figures; what belongs to one model carries its name as a label."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "plumbline_requests", "Requests answered, by route and status", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "plumbline_request_seconds",
            "From headers to answer, by route",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("plumbline_requests_in_flight", "Requests not yet answered", registry=registry)
        self.errors = Counter(
            "plumbline_errors", "Images and requests refused or failed, by reason", ["reason"], registry=registry
        )
        self.connections = Gauge("plumbline_connections", "Open connections", registry=registry)
        self.connections_refused = Counter(
            "plumbline_connections_refused",
            "Connections ended before a request's headers were complete, by reason",
            ["reason"],
            registry=registry,
        )
        model = ["model"]
        self.images = Counter("plumbline_images", "Images judged", model, registry=registry)
        self.flagged = Counter("plumbline_images_flagged", "Images judged and flagged", model, registry=registry)
        self.decode_seconds = Histogram(
            "plumbline_decode_seconds", "Decoding and preprocessing of one image", buckets=_SECONDS, registry=registry
        )
        self.decode_queued = Gauge("plumbline_decode_queue_length", "Tasks that wait to be decoded", registry=registry)
        self.queue_seconds = Histogram(
            "plumbline_queue_seconds",
            "From the queue to the network, per image",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "plumbline_inference_seconds",
            "One batch through network and detector",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "plumbline_batch_size", "Images per batch", model, buckets=_SIZES, registry=registry
        )
        self.batch_limit = Gauge(
            "plumbline_batch_limit", "Most images in a batch; falls where memory runs out", model, registry=registry
        )
        self.queued = Gauge(
            "plumbline_queue_length", "Decoded images that wait for the network", model, registry=registry
        )
        self.admitted_images = Gauge(
            "plumbline_admitted_images", "Images accepted and not yet answered", model, registry=registry
        )
        self.admitted_bytes = Gauge(
            "plumbline_admitted_bytes", "Bytes accepted and not yet answered", model, registry=registry
        )
        self.ready = Gauge("plumbline_model_ready", "1 where images that come now are judged", model, registry=registry)
        self.info = Gauge(
            "plumbline_model_info", "1 for the version that is served", ["model", "version"], registry=registry
        )
        self.canaries = Counter(
            "plumbline_canaries", "Canary images judged, by outcome", ["model", "outcome"], registry=registry
        )
        self.reloads = Counter(
            "plumbline_reloads", "Artifacts read again, by outcome", ["model", "outcome"], registry=registry
        )

    def of_model(self, name: str) -> "ModelMetrics":
        """The figures of one model."""
        return ModelMetrics(self, name)

    def exposition(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self.registry)


class ModelMetrics:
    """One model's figures, told by its inference threads and asked of the version that is served.

    Args:
        metrics: the server's.
        name: the model's, the label.
    """

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.server = metrics
        self.name = name
        self.images = metrics.images.labels(name)
        self.flagged = metrics.flagged.labels(name)
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._inference_seconds = metrics.inference_seconds.labels(name)
        self._batch_size = metrics.batch_size.labels(name)
        # A counter that appears with its first event hides that event from a rate.
        for outcome in ("right", "wrong", "failed", "late"):
            metrics.canaries.labels(name, outcome)
        for outcome in ("replaced", "unchanged", "refused"):
            metrics.reloads.labels(name, outcome)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_REQUESTS)

    def watch(
        self,
        *,
        queued: Callable[[], float],
        images: Callable[[], float],
        size: Callable[[], float],
        limit: Callable[[], float],
        ready: Callable[[], bool],
    ) -> None:
        """Ask these at scrape time, of the version that is served then, whichever other may have started."""
        self.server.queued.labels(self.name).set_function(queued)
        self.server.admitted_images.labels(self.name).set_function(images)
        self.server.admitted_bytes.labels(self.name).set_function(size)
        self.server.batch_limit.labels(self.name).set_function(limit)
        self.server.ready.labels(self.name).set_function(lambda: float(ready()))

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """Count one batch; see `service.http.inference.batcher.Observer`."""
        self._batch_size.observe(size)
        self._inference_seconds.observe(scored_s)
        for seconds in queued_s:
            self._queue_seconds.observe(seconds)

    def canary(self, outcome: str) -> None:
        """Count one canary image: "right", "wrong", "failed" or "late"."""
        self.server.canaries.labels(self.name, outcome).inc()

    def request_done(self, seconds: float) -> None:
        """Note how long one answered request took."""
        self._recent.append((time.monotonic(), seconds))

    def latency(self) -> Latency:
        """Quantiles over the last minute's requests, or the last 4,096 of them."""
        since = time.monotonic() - _RECENT_S
        recent = [1000 * seconds for at, seconds in tuple(self._recent) if at >= since]
        if not recent:
            return Latency(None, None, 0)
        p50, p99 = np.quantile(recent, (0.5, 0.99))
        return Latency(float(p50), float(p99), len(recent))
