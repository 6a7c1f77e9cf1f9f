"""The thread that recognises query attacks among the served images; see docs/query-attacks.md.

A request appends its images to a queue. The thread empties the queue twice a second, and sooner if many images wait, in
batches. Its results are in the log, the metrics, the webhook and the admin port, never in a response: an attacker who
sees that a query is recognised adapts the next one.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.errors import ArtifactError
from service.http.observability.metrics import Metrics
from service.http.observability.served import ServedImages
from service.http.settings import Settings
from service.monitoring.queries.descriptors import Sketcher
from service.monitoring.queries.index import PROMOTED_MEMBERS, QueryIndex
from service.monitoring.queries.scale import QueryScale
from service.monitoring.queries.sessions import LARGE, Session
from service.monitoring.webhook import Webhook

__all__ = ["QueryWatch"]

logger = logging.getLogger("plumbline.queries")

_EVERY_S = 0.5
_BATCH = 64  # images between two pauses
_PAUSE_S = 0.001
_MAX_QUEUED_BYTES = 32 * 1024 * 1024
_MANY_BYTES = _MAX_QUEUED_BYTES // 4  # that wake the thread
_MAX_VERSIONS = 8  # of models, whose secrets are kept
_MAX_SHOWN = 100

_Entry = tuple[ServedImages, Sequence[np.ndarray]]  # one request, and the pixels of its images


class QueryWatch:
    """Sessions of similar queries, by model and API key, or by the client's address without keys.

    Call `start` before and `stop` after use.

    Args:
        settings: of the server; `sessions_bytes` is not 0.
        metrics: of the server.
        webhook: receives each attack; started by its owner. None: there is none.
        record: is called with each attack; None: there is none.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        webhook: Webhook | None = None,
        record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._metrics, self._webhook, self._record = metrics, webhook, record
        self._index = QueryIndex(settings.sessions_bytes, settings.sessions_ttl_s)
        self._allowed = frozenset(filter(None, map(str.strip, settings.sessions_allowed_keys.split(","))))
        self._queue: deque[_Entry] = deque()
        # Bytes put by requests and taken by the thread; each has one writer, so they need no lock.
        self._put = self._taken = 0
        self._working = threading.Lock()  # around the index
        self._versions: OrderedDict[str, tuple[Sketcher, float]] = OrderedDict()  # by digest
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def observe(self, served: ServedImages, pixels: Sequence[np.ndarray]) -> None:
        """Queue the images of one request; drop and count them if the queue is full."""
        size = sum(image.nbytes for image in pixels)
        if self._put - self._taken + size > _MAX_QUEUED_BYTES:
            self._metrics.query_dropped.inc(len(pixels))
            return
        self._put += size
        self._queue.append((served, pixels))
        if self._put - self._taken > _MANY_BYTES:
            self._wake.set()

    def sessions_of(self, served: ServedImages) -> Sequence[str | None]:
        """Names of the sessions of the images, after they are taken into account; None for an image without one."""
        if not served.sessions:
            self.flush()
            with self._working:  # another thread may be at these images
                pass
        return served.sessions or [None] * len(served.verdicts)

    def repeated(self, served: ServedImages) -> Sequence[bool]:
        """Whether each image equals or resembles an earlier one of its key; False for images that are not compared."""
        self.sessions_of(served)
        return served.repeated if len(served.repeated) == len(served.verdicts) else [False] * len(served.verdicts)

    def sessions(self) -> list[dict[str, Any]]:
        """Summaries of the sessions with the most members, those with a rule first; at most 100."""
        with self._working:
            sessions = [session for session in self._index if session.members >= PROMOTED_MEMBERS]
            sessions.sort(key=lambda each: (not each.rules, each.dismissed, -each.members))
            return [session.summary() for session in sessions[:_MAX_SHOWN]]

    def session(self, name: str, *, dismiss: bool = False) -> dict[str, Any] | None:
        """The summary of a session; None if there is no such session.

        Args:
            name: of the session.
            dismiss: whether the session raises no alarm from now on.
        """
        with self._working:
            session = self._index.find(name)
            if session is None:
                return None
            session.dismissed |= dismiss
            return session.summary()

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="plumbline-queries", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take the queued images into account, and end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def flush(self) -> None:
        """Take the images that are queued now into account."""
        end = self._put  # requests may add images as fast as they are taken
        while self._queue and self._taken < end:
            with self._working:
                for batch in self._batches():
                    try:
                        self._take(batch)
                    except Exception:  # a defect; serving and the store go on
                        logger.exception("the recognition of query attacks failed; it continues with the next images")
            time.sleep(_PAUSE_S)  # a request never waits long for the interpreter lock
        with self._working:
            self._metrics.query_records.set(self._index.records)

    def _run(self) -> None:
        while True:
            self._wake.wait(_EVERY_S)
            self._wake.clear()
            stopping = self._stopping
            self.flush()
            if stopping:
                return

    def _batches(self) -> Iterable[list[_Entry]]:
        """The next requests of the queue, by version of the model."""
        batches: dict[tuple[str, str], list[_Entry]] = {}
        images = 0
        while self._queue and images < _BATCH:
            served, pixels = self._queue.popleft()
            self._taken += sum(image.nbytes for image in pixels)
            images += len(pixels)
            batches.setdefault((served.model, served.artifact.digest), []).append((served, pixels))
        return batches.values()

    def _take(self, batch: Sequence[_Entry]) -> None:
        """Add the images of requests to one version of a model, and fill `sessions` and `repeated` of each request."""
        names: list[list[str | None]] = [[None] * len(served.verdicts) for served, _ in batch]
        for served, _ in batch:
            served.repeated[:] = [False] * len(served.verdicts)
        compared = [
            (served, place, own_names, pixels[place], verdict.probabilities)
            for (served, pixels), own_names in zip(batch, names, strict=True)
            if _key(served) not in self._allowed
            for place, verdict in enumerate(served.verdicts)
            if verdict.probabilities is not None
        ]
        if compared:
            requests, places, _, images, probabilities = zip(*compared, strict=True)
            first = requests[0]
            sketcher, radius = self._version(first, images[0].shape)
            flagged = [served.verdicts[place].flagged for served, place in zip(requests, places, strict=True)]
            added = self._index.add(
                f"{first.model}@{first.artifact.digest}", [_key(served) for served in requests],
                sketcher.queries(images, np.stack(probabilities), flagged), radius,
                at=[served.time for served in requests], request_ids=[served.request_id for served in requests],
            )  # fmt: skip
            for (served, place, own_names, *_), (session, repeated) in zip(compared, added, strict=True):
                served.repeated[place] = repeated
                if session is not None:
                    own_names[place] = session.name
                    self._report(served.model, session)
        for (served, _), own_names in zip(batch, names, strict=True):
            served.sessions[:] = own_names  # last: the images are then taken into account

    def _version(self, served: ServedImages, shape: tuple[int, int, int]) -> tuple[Sketcher, float]:
        """The secret and the radius of the version that scored images of this shape."""
        digest = served.artifact.digest
        known = self._versions.get(digest)
        if known is None:
            try:
                scale = QueryScale.of_provenance(served.artifact.manifest["provenance"])
            except ArtifactError as exc:
                logger.error("the queries of %s are compared within the default radius: %s", served.model, exc)
                scale = QueryScale()
            known = Sketcher(shape, np.random.default_rng(), scale.margin_scale), scale.radius
            self._versions[digest] = known
            while len(self._versions) > _MAX_VERSIONS:
                self._versions.popitem(last=False)
        self._versions.move_to_end(digest)
        return known

    def _report(self, model: str, session: Session) -> None:
        """Report a session when it has its eighth member, becomes large, or meets its first rule."""
        if session.members >= PROMOTED_MEMBERS and not session.counted:
            session.counted = True
            self._metrics.query_sessions.labels(model).inc()
        if session.dismissed or session.reported:
            return
        if session.rules:
            session.reported = True
            self._alarm(model, session)
        elif session.members >= LARGE and not session.large:
            session.large = True
            logger.info("%d similar queries without a rule in session %s", session.members, session.name)

    def _alarm(self, model: str, session: Session) -> None:
        for rule in session.rules:
            self._metrics.query_attacks.labels(model, rule).inc()
        event = {
            "event": "query_attack", "model": model, **session.summary(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        fields = {("at" if field == "time" else field): value for field, value in event.items()}
        logger.warning(
            "%s: query attack with %d similar queries of %s (rules %s), session %s",
            model, session.members, ", ".join(session.keys), ", ".join(session.rules), session.name, extra=fields,
        )  # fmt: skip
        if self._record is not None:
            self._record(event)
        if self._webhook is not None:
            self._webhook.send(event)


def _key(served: ServedImages) -> str:
    return served.client if served.key is None else served.key
