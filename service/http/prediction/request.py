"""One admitted request for predictions, and the steps that all prediction routes share."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from detector.pipeline import Verdict
from models.errors import ImageError, PlumblineError
from service.http.batching.errors import DeadlineError
from service.http.errors import ClientGoneError, HttpError
from service.http.inference.capacity import Ticket
from service.http.inference.model import ServedModel
from service.http.inference.outcomes import ScoredImages
from service.http.observability.metrics import Metrics
from service.http.observability.served import Observer, ServedImages
from service.http.settings import Settings

__all__ = ["PredictionRequest", "error_message", "image_error"]

T = TypeVar("T")

_LONG_BODY = 64 * 1024  # parsing a longer body would block the event loop


@dataclass(frozen=True)
class PredictionRequest:
    """A request with its model and its reserved capacity.

    Args:
        http: the HTTP request; its body is not read yet.
        model: scores the images.
        ticket: the reservation, at first for one image.
        settings: the limits.
        metrics: counts images.
        observers: each receives the images with verdicts.
    """

    http: Request
    model: ServedModel
    ticket: Ticket
    settings: Settings
    metrics: Metrics
    observers: Sequence[Observer]

    async def parse(self, parse: Callable[[bytes], T], body: bytes, *, long: bool | None = None) -> T:
        """The result of ``parse(body)``; a long body is parsed on a decoding thread.

        Args:
            parse: the parser.
            body: of the request.
            long: whether parsing takes long; None: the length of the body decides.

        Raises:
            MemoryRanOutError: memory ran out.
        """
        if len(body) > _LONG_BODY if long is None else long:
            return await self.model.inference.run_in_decoder_pool(parse, body)
        return parse(body)

    def reserve(self, images: int) -> None:
        """Extend the reservation from one image to `images`.

        Raises:
            OverloadedError: the capacity is exhausted.
        """
        self.ticket.grow(images - 1, (images - 1) * self.model.inference.image_bytes)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when the client disconnects or the time is up.

        Raises:
            ClientGoneError: the client disconnected first.
            DeadlineError: the time was up first.
        """
        # The work runs in this task and only the watch is a task of its own: two tasks would cost every request a
        # third more time on the event loop.
        this_task = asyncio.current_task()
        assert this_task is not None
        working = True

        def stop(watch: "asyncio.Task[None]") -> None:
            if working and not watch.cancelled():
                this_task.cancel()

        gone = asyncio.create_task(_disconnected(self.http))
        gone.add_done_callback(stop)
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                return await work
        except TimeoutError as exc:
            raise DeadlineError from exc
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled() and this_task.uncancel() == 0:
                raise ClientGoneError from None
            raise
        finally:
            working = False
            gone.cancel()

    def count(self, scored: ScoredImages) -> None:
        """Count scored, flagged and refused images, and pass those with verdicts to the observers."""
        outcomes, state = scored.outcomes, self.http.scope["state"]
        verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
        if verdicts:
            served = ServedImages(
                time=time.time(), model=self.model.name, artifact=self.model.artifact,
                request_id=state["request_id"], key=state.get("api_key"), verdicts=verdicts,
                indices=[index for index, outcome in enumerate(outcomes) if isinstance(outcome, Verdict)],
                client=(self.http.scope.get("client") or ("",))[0],
            )  # fmt: skip
            pixels = [
                pixels
                for outcome, pixels in zip(outcomes, scored.pixels, strict=True)
                if isinstance(outcome, Verdict) and pixels is not None
            ]
            for observe in self.observers:
                observe(served, pixels)
        self.model.metrics.images.inc(len(verdicts))
        self.model.metrics.flagged.inc(sum(verdict.flagged for verdict in verdicts))
        for outcome in outcomes:
            # The guard counts the error of a request with one image.
            if isinstance(outcome, Exception) and len(outcomes) > 1:
                self.metrics.errors.labels(error_message(outcome)[0]).inc()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_message(failure: Exception) -> tuple[str, str]:
    """Code and message for an image without a verdict."""
    if isinstance(failure, ImageError):
        return "image_refused", str(failure)
    if isinstance(failure.__cause__, PlumblineError):
        return "image_not_judged", str(failure.__cause__)
    return "internal_error", "internal server error; the server's log has the reason"


def image_error(failure: Exception, prefix: str = "") -> HttpError:
    """The response to a whole request because of one image: 500 for a defect, else 422."""
    code, message = error_message(failure)
    return HttpError(500 if code == "internal_error" else 422, code, prefix + message)
