"""The thread that compares served p-values with the calibration; see docs/calibration-watch.md.

A request appends its verdicts to a queue and wakes no thread. The thread empties the queue twice a second, in pieces so
short that a request never waits for the interpreter lock, updates the metrics, logs warnings and pages, sends them to
the webhook, and writes the state to disk.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from filelock import FileLock

from detector.artifact import Artifact
from models.errors import InputError, PlumblineError
from models.files import write_atomically
from service.http.observability.metrics import Metrics
from service.http.observability.served import ServedImages
from service.monitoring.lock import locked
from service.monitoring.model_watch import ALL, ModelWatch
from service.monitoring.series import BLOCK, Change, Series
from service.monitoring.webhook import Webhook

__all__ = ["CalibrationWatch"]

logger = logging.getLogger("plumbline.watch")

STATE_FILE = "calibration-watch.json"
STATE_VERSION = 1

_EVERY_S = 0.5
_SAVE_EVERY_S = 30.0
_PIECE = 64  # images between two pauses
_PAUSE_S = 0.001
_MAX_QUEUED = 16_384  # images
_MAX_VERSIONS = 2  # watched versions of a model: the current one, and a replaced one that completes its requests
_MAX_ALARMS = 20  # kept for the status
_SHOWN_OF_ALARM = {"time", "change", "images", "artifact", "series"}
_LEVELS = {"ok": 0, "warning": 1, "page": 2}
_TEXTS: dict[Change, str] = {
    "flags": "the flag rate is higher than the calibration allows",
    "distribution": "the distribution of the p-values differs from that of the calibration images",
    "page": "the flags are about twice as many as the false-positive rate",
    "page_end": "the flag rate is normal again",
}

RepeatedOf = Callable[[ServedImages], Sequence[bool]]


class CalibrationWatch:
    """Watches the verdicts of all models; call `start` before and `stop` after use.

    Args:
        metrics: of the server.
        state: folder that stores the state between restarts; None: the state ends with the process.
        webhook: receives each warning and page; None: there is none.
        record: is called with each warning, page and end of a page; None: there is none.
        repeated_of: which images equal or resemble earlier ones of their key, and do not count; called by the thread.
            None: all count.

    Raises:
        InputError: the state cannot be read or written, or another process uses it.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        state: Path | None = None,
        webhook: Webhook | None = None,
        record: Callable[[Mapping[str, Any]], None] | None = None,
        repeated_of: RepeatedOf | None = None,
    ) -> None:
        self._metrics = metrics
        self._repeated_of = repeated_of
        self._state = None if state is None else state / STATE_FILE
        self._lock: FileLock | None = None
        self._webhook = webhook
        self._record = record
        self._queue: deque[ServedImages] = deque()
        # Images put by requests and taken by the thread; each has one writer, so they need no lock.
        self._put = self._taken = 0
        self._watches: OrderedDict[tuple[str, str], ModelWatch] = OrderedDict()  # by model and digest
        self._alarms: dict[str, deque[dict[str, Any]]] = {}
        self._stored: dict[str, dict[str, Any]] = {}  # state of models without images since the start, by model
        self._status: dict[tuple[str, str], dict[str, Any]] = {}
        self._shown: set[tuple[str, str]] = set()
        self._resets: deque[str] = deque()
        self._changed = False
        self._saved_at = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if self._state is not None:
            self._lock = locked(self._state.with_suffix(".lock"), f"the state in {self._state.parent}")
            self._stored = _read(self._state)
            self._write()  # an unusable folder is an error at the start

    def observe(self, served: ServedImages, _: Sequence[np.ndarray]) -> None:
        """Queue the verdicts of one request; drop and count them if the queue is full."""
        if self._put - self._taken + len(served.verdicts) > _MAX_QUEUED:
            self._metrics.watch_dropped.inc(len(served.verdicts))
            return
        self._put += len(served.verdicts)
        self._queue.append(served)

    def status(self, model: str, artifact: Artifact) -> dict[str, Any] | None:
        """The fields of `service.http.schemas.v1.WatchStatus`; None before the first image of this version."""
        return self._status.get((model, artifact.digest))

    def all_series(self) -> dict[str, Any]:
        """Summaries of all series by model and name, with keys and classes."""
        statuses = [(model, self._status.get((model, digest))) for model, digest in list(self._watches)]
        return {model: status["series"] for model, status in statuses if status is not None}

    def reset(self, model: str) -> None:
        """Forget warnings and counts of all series of a model, within a second."""
        self._resets.append(model)

    def start(self) -> None:
        """Start the thread, and that of the webhook."""
        if self._webhook is not None:
            self._webhook.start()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="plumbline-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take the queued verdicts into account, write the state, and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._webhook is not None:
            self._webhook.stop()
        if self._lock is not None:
            self._lock.release()

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(_EVERY_S)
            try:
                self._drain()
                if self._changed and (stopping or time.monotonic() - self._saved_at >= _SAVE_EVERY_S):
                    self._save()
            except Exception:  # a defect; serving goes on
                logger.exception("the calibration watch failed; it continues with the next images")
            if stopping:
                return

    def _drain(self) -> None:
        since_pause = 0
        touched: dict[tuple[str, str], ModelWatch] = {}
        while self._queue:
            served = self._queue.popleft()
            self._taken += len(served.verdicts)
            model, artifact = served.model, served.artifact
            watch = touched[model, artifact.digest] = self._watch(model, artifact)
            repeated = [False] * len(served.verdicts) if self._repeated_of is None else self._repeated_of(served)
            for verdict, again in zip(served.verdicts, repeated, strict=True):
                watch.repeated += again
                changes = [] if again else watch.add(
                    p_value=verdict.p_value, flagged=verdict.flagged, score=verdict.score, label=verdict.label,
                    key=served.key,
                )  # fmt: skip
                for name, series, change in changes:
                    self._report(model, artifact, name, series, change)
                since_pause += 1
                if since_pause >= _PIECE:
                    since_pause = 0
                    time.sleep(_PAUSE_S)
        while self._resets:
            self._forget(self._resets.popleft())
        for (model, digest), watch in touched.items():
            if self._watches.get((model, digest)) is watch:
                self._changed = True
                self._status[model, digest] = self._summary(model, digest, watch)
                self._publish(model, watch)

    def _watch(self, model: str, artifact: Artifact) -> ModelWatch:
        place = (model, artifact.digest)
        watch = self._watches.get(place)
        if watch is None:
            watch = ModelWatch(artifact.pipeline.calibration)
            stored = self._stored.pop(model, None)
            if stored is not None and stored["artifact"] == artifact.digest:
                try:
                    watch.restored(stored["series"])
                    alarms = [event for event in stored["alarms"] if event.keys() >= _SHOWN_OF_ALARM]
                    self._alarms[model] = deque(alarms, maxlen=_MAX_ALARMS)
                except (InputError, KeyError, TypeError, AttributeError) as exc:
                    logger.error("the stored calibration watch of %s is not used: %s", model, exc)
                    watch = ModelWatch(artifact.pipeline.calibration)
            elif stored is not None:
                logger.info("the calibration watch of %s starts anew: the artifact is another one", model)
            self._watches[place] = watch
            versions = [each for each in self._watches if each[0] == model]
            for old in versions[:-_MAX_VERSIONS]:
                del self._watches[old]
                self._status.pop(old, None)
        self._watches.move_to_end(place)  # the version of the latest image is the last one
        return watch

    def _forget(self, model: str) -> None:
        for place in [each for each in self._watches if each[0] == model]:
            del self._watches[place]
            self._status.pop(place, None)
        self._alarms.pop(model, None)
        self._stored.pop(model, None)
        for shown in [each for each in self._shown if each[0] == model]:
            self._remove(shown)
        self._changed = True
        logger.info("the calibration watch of %s starts anew: an operator has reset it", model)

    def _report(self, model: str, artifact: Artifact, name: str, series: Series, change: Change) -> None:
        event = {
            "event": "calibration_watch", "change": change, "model": model, "artifact": artifact.digest,
            "series": name, "images": series.images, "recent_rate": round(series.recent_rate, 4), "fpr": series.fpr,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        level = logging.INFO if change == "page_end" else logging.WARNING
        fields = {("at" if field == "time" else field): value for field, value in event.items()}
        logger.log(level, "%s, %s, image %d: %s", model, name, series.images, _TEXTS[change], extra=fields)
        self._alarms.setdefault(model, deque(maxlen=_MAX_ALARMS)).append(event)
        if change != "page_end":
            self._metrics.watch_alarms.labels(model, change).inc()
        if self._record is not None:
            self._record(event)
        if self._webhook is not None:
            self._webhook.send(event)

    def _summary(self, model: str, digest: str, watch: ModelWatch) -> dict[str, Any]:
        return {
            **watch.all.summary(),
            "repeated": watch.repeated,
            "block": BLOCK,
            "block_rates": [flags / BLOCK for flags in watch.all.blocks],
            "band": {"low": watch.band.low, "high": watch.band.high},
            "histogram": list(watch.all.histogram),
            "alarms": [
                {name: event[name] for name in ("time", "change", "images")}
                for event in self._alarms.get(model, ())
                if (event["artifact"], event["series"]) == (digest, ALL)
            ],
            "series": {name: series.summary() for name, series in watch},
        }

    def _publish(self, model: str, watch: ModelWatch) -> None:
        metrics = self._metrics
        current = set()
        for name, series in watch:
            current.add((model, name))
            time.sleep(0)  # let a request have the interpreter lock
            metrics.watch_images.labels(model, name).set(series.images)
            metrics.watch_flag_rate.labels(model, name).set(series.recent_rate)
            metrics.watch_level.labels(model, name).set(_LEVELS[series.level])
            for test, value in series.summary()["log10_e"].items():
                metrics.watch_log10_e.labels(model, name, test).set(value)
        for gone in {each for each in self._shown if each[0] == model} - current:
            self._remove(gone)
        self._shown |= current

    def _remove(self, shown: tuple[str, str]) -> None:
        metrics = self._metrics
        for gauge in (metrics.watch_images, metrics.watch_flag_rate, metrics.watch_level):
            gauge.remove(*shown)
        for test in ("flags", "distribution"):
            metrics.watch_log10_e.remove(*shown, test)
        self._shown.discard(shown)

    def _save(self) -> None:
        self._changed = False
        self._saved_at = time.monotonic()
        if self._state is not None:
            try:
                self._write()
            except PlumblineError as exc:
                logger.error("the state of the calibration watch was not written: %s", exc)

    def _write(self) -> None:
        assert self._state is not None
        models = dict(self._stored)
        for (model, digest), watch in self._watches.items():  # the last version of a model remains
            alarms = list(self._alarms.get(model, ()))
            models[model] = {"artifact": digest, "series": watch.to_json(), "alarms": alarms}
        write_atomically(self._state, orjson.dumps({"version": STATE_VERSION, "models": models}))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The models of a state file; none if there is no file, or if it is invalid, which is logged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise InputError(f"cannot read the state in {path}: {exc}; check the folder's permissions") from exc
    try:
        state = orjson.loads(content)
        if state["version"] != STATE_VERSION:
            raise ValueError(f"version {state['version']!r}")
        models = {str(name): {**model} for name, model in state["models"].items()}
        if not all({"artifact", "series", "alarms"} <= model.keys() for model in models.values()):
            raise ValueError("missing fields")
        return models
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.error("the calibration watch starts anew: %s is invalid: %s", path, exc)
        return {}
