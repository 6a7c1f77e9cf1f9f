"""What /metrics tells: counters and histograms in a registry of their own, so that two apps stay apart."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.http.admission import Admission

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """One server's figures.

    Args:
        admission: read at scrape time for what is in the house.
    """

    def __init__(self, admission: Admission) -> None:
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
        self._queued = Gauge("plumbline_queue_length", "Decoded images that wait for the network", registry=registry)
        self.images = Counter("plumbline_images", "Images judged", registry=registry)
        self.flagged = Counter("plumbline_images_flagged", "Images judged and flagged", registry=registry)
        self.errors = Counter(
            "plumbline_errors", "Images and requests refused or failed, by reason", ["reason"], registry=registry
        )
        self.decode_seconds = Histogram(
            "plumbline_decode_seconds", "Decoding and preprocessing of one image", buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "plumbline_queue_seconds", "From the queue to the network, per image", buckets=_SECONDS, registry=registry
        )
        self.inference_seconds = Histogram(
            "plumbline_inference_seconds", "One batch through network and detector", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram("plumbline_batch_size", "Images per batch", buckets=_SIZES, registry=registry)
        images = Gauge("plumbline_admitted_images", "Images accepted and not yet answered", registry=registry)
        images.set_function(lambda: admission.images)
        size = Gauge("plumbline_admitted_bytes", "Bytes accepted and not yet answered", registry=registry)
        size.set_function(lambda: admission.bytes)

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Ask `length` at scrape time for the queue's length."""
        self._queued.set_function(length)

    def batch_done(self, size: int, queued_s: Sequence[float], judged_s: float) -> None:
        """Count one batch; see `service.http.batcher.Observer`."""
        self.batch_size.observe(size)
        self.inference_seconds.observe(judged_s)
        for seconds in queued_s:
            self.queue_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self.registry)
