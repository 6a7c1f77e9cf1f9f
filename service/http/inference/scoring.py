"""From image files to verdicts: a pool of threads decodes, the thread that owns the network scores batches."""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.errors import ImageError
from models.images.decoding import Limits, decode_image
from service.http.batching.batcher import Batcher
from service.http.batching.errors import MemoryRanOutError, ScoringError
from service.http.batching.waiting import results
from service.http.errors import UnavailableError
from service.http.inference.batch_times import BatchTimes
from service.http.inference.canary import Canary
from service.http.inference.decoders import Decoders
from service.http.inference.files import ImageFile
from service.http.inference.outcomes import Outcome, ScoredImages
from service.http.inference.scorer import DecodedImage, PipelineScorer
from service.http.observability.metrics import ModelMetrics
from service.http.settings import Settings

__all__ = ["Inference"]

logger = logging.getLogger("plumbline.inference")

T = TypeVar("T")

# Files and images up to these numbers of bytes take less time to decode than to hand to another thread, unless the file
# is a PNG in many chunks.
_SMALL_FILE, _SMALL_IMAGE, _FEW_CHUNKS = 16 * 1024, 3 * 64 * 64, 16


class Inference:
    """Verdicts on image files; call `start` before and `stop` after use, on the event loop.

    Args:
        artifact: its pipeline scores; used by this object only.
        settings: batch size, threads, limits.
        metrics: receives the durations of the stages.
        decoders: decoding threads, shared by all models.
        torch_threads: of the forward pass.
        in_flight: number of accepted and unfinished images; None: unknown.
    """

    def __init__(
        self,
        artifact: Artifact,
        settings: Settings,
        metrics: ModelMetrics,
        decoders: Decoders,
        *,
        torch_threads: int,
        in_flight: Callable[[], int] | None = None,
    ) -> None:
        self.scorer = PipelineScorer(artifact.pipeline)
        self._preprocessing = artifact.preprocessing
        self._settings = settings
        self._metrics = metrics
        self._decoders = decoders
        metrics.server.decode_queued.set_function(lambda: decoders.waiting)
        self._limits = Limits(max_pixels=settings.max_pixels, budget=decoders.budget)
        # Files of other sizes are refused by their header.
        self._small = not self._preprocessing.any_size and self.image_bytes <= _SMALL_IMAGE
        self._batcher: Batcher[DecodedImage, Verdict] = Batcher(
            lambda images: self.scorer(images),
            max_batch_size=artifact.pipeline.batch_size(settings.max_batch_size),
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
            observer=self,
            on_start=functools.partial(torch.set_num_threads, torch_threads),
            classify=lambda failure: self.scorer.classify(failure),
            expected=in_flight,
            deliver=self._on_loop,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._canary = Canary(artifact.preprocessing)
        self._canary_task: asyncio.Task[None] | None = None
        self._warm = False
        self._times: BatchTimes | None = None  # None until the warm-up has measured them

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self._preprocessing.num_bytes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's images."""
        return self._preprocessing.height, self._preprocessing.width

    @property
    def alive(self) -> bool:
        """Whether the thread accepts images."""
        return self._batcher.alive

    @property
    def ready(self) -> bool:
        """Whether new images are scored soon, and correctly as far as the canary shows."""
        # If no decoding thread was free for the request timeout, the requests that waited for one have timed out.
        decoding = self._decoders.stuck_s <= self._settings.request_timeout_s
        return self.alive and not self.stalled and decoding and self._canary.right

    @property
    def stalled(self) -> bool:
        """Whether the running batch takes suspiciously long; it may still finish."""
        size, seconds = self._batcher.running
        return size > 0 and self._times is not None and seconds > self._times.stalled_after_s(size)

    @property
    def failed(self) -> str | None:
        """Reason to end the process: the thread died or is stuck; None if healthy."""
        if self._batcher.died:
            return "the inference thread died"
        size, seconds = self._batcher.running
        if size > 0 and self._times is not None and seconds > self._times.stuck_after_s(size):
            return f"the inference thread has been scoring {size} images for {seconds:.0f} s"
        return None

    @property
    def queued(self) -> int:
        """Number of decoded images in the queue."""
        return self._batcher.queued

    @property
    def max_batch_size(self) -> int:
        """Maximum number of images in a batch: the setting, or fewer as memory allows; decreases when it runs out."""
        return self._batcher.max_batch_size

    async def start(self) -> None:
        """Start the thread and score a full batch and the canary, so that no request waits for lazy initialisation.

        Raises:
            ScoringError, StoppedError: the network fails on these images.
        """
        self._loop = asyncio.get_running_loop()
        self._batcher.start()
        try:
            await self._warm_up()
        except BaseException:
            await self.stop()
            raise
        if self._settings.canary_interval_s > 0:
            self._canary_task = asyncio.create_task(self._watch_canary(), name="plumbline-canary")

    def stop_canary(self) -> None:
        """Stop scoring the canary image."""
        if self._canary_task is not None:
            self._canary_task.cancel()

    async def stop(self) -> None:
        """Score the queued images, then end the thread."""
        if self._canary_task is not None:
            self._canary_task.cancel()
            await asyncio.wait([self._canary_task])  # does not raise: the thread must end in any case
        ended = await asyncio.to_thread(self._batcher.stop, 0 if self._batcher.died else self._settings.drain_timeout_s)
        if not ended:
            logger.error("the inference thread did not end within %d s", self._settings.drain_timeout_s)

    def abandon(self) -> None:
        """Give up a dead or stuck thread; its waiting requests get a 503."""
        self._batcher.abandon()

    async def run_in_decoder_pool(self, function: Callable[[bytes], T], data: bytes) -> T:
        """The result of ``function(data)``, run on a decoding thread in turn with the images of other requests.

        Raises:
            MemoryRanOutError: memory ran out.
        """
        try:
            [result] = await results([self._decoders.submit(function, data)])
            return result
        except MemoryError:
            raise MemoryRanOutError from None

    async def score(self, files: Sequence[ImageFile], *, path: bool, in_pool: bool = False) -> ScoredImages:
        """The outcomes of files; cancellation removes queued work.

        Args:
            files: at least one.
            path: whether the verdicts include the path.
            in_pool: decode on the decoding threads, also a file that takes less time here.

        Raises:
            UnavailableError: the inference thread stopped or died, memory ran out, or the deadline passed.
        """
        if self._small and not in_pool and len(files) == 1 and _decodes_fast(files[0].content):
            decoded = [self._decode(files[0], Limits(self._settings.max_pixels))]  # never waits for a budget
        else:
            lane = self._decoders.lane()
            decoded = await results([lane.submit(self._decode, file, self._limits) for file in files])
        for each in decoded:
            if isinstance(each, UnavailableError):
                raise each
        scored = iter(await self.score_pixels([each for each in decoded if isinstance(each, np.ndarray)], path=path))
        return ScoredImages(
            [each if isinstance(each, ImageError | ScoringError) else next(scored) for each in decoded],
            [each if isinstance(each, np.ndarray) else None for each in decoded],
        )

    async def score_pixels(self, images: Sequence[np.ndarray], *, path: bool = False) -> list[Verdict | ScoringError]:
        """One outcome per image, each uint8 ``(3, H, W)``, already preprocessed.

        Raises:
            UnavailableError: as `score`.
        """
        if not images:
            return []
        timeout_s = self._settings.request_timeout_s if self._warm else math.inf
        future = self._batcher.submit([DecodedImage(pixels, path) for pixels in images], timeout_s=timeout_s)
        [outcomes] = await results([future])
        return [_checked(outcome) for outcome in outcomes]

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """Record one batch after the warm-up; see `service.http.batching.batcher.Observer`."""
        if self._warm:
            self._metrics.batch_done(size, queued_s, scored_s)

    def _on_loop(self, complete: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, and no request waits
            self._loop.call_soon_threadsafe(complete)

    def _decode(self, file: ImageFile, limits: Limits) -> np.ndarray | ImageError | ScoringError | UnavailableError:
        started = perf_counter()
        try:
            return decode_image(file.data(), self._preprocessing, limits)
        except ImageError as exc:
            return exc  # the outcome of this image only
        except MemoryError:
            return MemoryRanOutError()  # without its cause, whose frames keep the memory
        except Exception as exc:
            logger.error("one file could not be decoded", exc_info=True)
            return ScoringError("the file could not be decoded", exc)
        finally:
            if self._warm:
                self._metrics.server.decode_seconds.observe(perf_counter() - started)

    async def _warm_up(self) -> None:
        size = self.max_batch_size
        # On a GPU every padded size has kernels of its own.
        between = [1 << n for n in range(1, size.bit_length())] if self.scorer.on_gpu else []
        for count in (1, *between, size):
            await self._score_grey(count)
        one, largest = await self._score_grey(1), await self._score_grey(size)
        self._times = BatchTimes(one, largest, size, self._settings.hang_timeout_s)
        verdict = await self._score_canary()
        if isinstance(verdict, Exception):
            raise verdict
        self._canary.expect(verdict)
        while self._batcher.running[0]:  # its metrics follow its results, and must not be counted
            await asyncio.sleep(0.001)
        self._warm = True

    async def _score_grey(self, count: int) -> float:
        """Seconds of a batch of `count` grey images."""
        grey = np.full((3, *self.image_size), 128, np.uint8)
        started = perf_counter()
        for outcome in await self.score_pixels([grey] * count, path=True):
            if isinstance(outcome, Exception):
                raise outcome
        return perf_counter() - started

    async def _score_canary(self) -> Outcome:
        return (await self.score([ImageFile(self._canary.file)], path=False, in_pool=True)).outcomes[0]

    async def _watch_canary(self) -> None:
        while True:
            await asyncio.sleep(self._settings.canary_interval_s)
            outcome: Outcome | Exception
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    outcome = await self._score_canary()
            except (UnavailableError, TimeoutError):
                self._metrics.canary("late")  # a full queue is not evidence of wrong results
                continue
            except Exception as exc:
                outcome = exc  # a defect on the way to the verdict counts as a failure
            self._metrics.canary(self._canary.check(outcome))


def _decodes_fast(content: bytes | str) -> bool:
    return isinstance(content, bytes) and len(content) <= _SMALL_FILE and content.count(b"IDAT") <= _FEW_CHUNKS


def _checked(outcome: Verdict | Exception) -> Verdict | ScoringError:
    """The outcome of one image; raises an exception that concerns the whole request."""
    if isinstance(outcome, Verdict | ScoringError):
        return outcome
    raise outcome
