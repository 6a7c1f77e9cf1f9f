"""From uploaded files to verdicts: decoded by a pool of threads, judged in batches by the one that owns the network."""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.errors import ImageError
from models.images.decoding import Limits, decode_image
from service.http.errors import UnavailableError
from service.http.inference.batcher import Batcher, Failure, MemoryRanOutError, ScoringError
from service.http.inference.canary import Canary
from service.http.inference.decoders import Decoders
from service.http.inference.uploads import Upload
from service.http.observability.metrics import ModelMetrics
from service.http.settings import Settings

__all__ = ["Inference", "Outcome"]

logger = logging.getLogger("plumbline.inference")

Outcome = Verdict | ImageError | ScoringError
T = TypeVar("T")

# A batch counts as stalled after so many times what it took at the start, and never before so many seconds; but well
# before it ends the process, unless a batch is known to take that long.
_STALLED_FACTOR = 10.0
_STALLED_AT_LEAST_S = 0.5
_STALLED_SHARE_OF_HANG = 0.5
_SLOW_FACTOR = 2.0


@dataclass(frozen=True, eq=False)
class _Image:
    """Pixels uint8 (3, H, W), and whether the verdict shall carry its path."""

    pixels: np.ndarray
    path: bool


class Inference:
    """Verdicts on uploaded files; `start` before and `stop` after use, on the event loop.

    Args:
        artifact: whose pipeline judges; nobody else may use it meanwhile.
        settings: batch size, threads, limits.
        metrics: where the stages' times go.
        decoders: the threads that decode, shared by all models.
        torch_threads: of the forward pass.
        in_flight: how many images are accepted and not yet answered; None: not known.
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
        self._pipeline = artifact.pipeline
        self._preprocessing = artifact.preprocessing
        self._settings = settings
        self._metrics = metrics
        self._decoders = decoders
        metrics.server.decode_queued.set_function(lambda: decoders.waiting)
        self._limits = Limits(max_pixels=settings.max_pixels)
        self._batcher: Batcher[_Image, Verdict] = Batcher(
            self._score,
            max_batch_size=settings.max_batch_size,
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
            observer=self,
            on_start=functools.partial(torch.set_num_threads, torch_threads),
            classify=self._classify,
            expected=in_flight,
        )
        self._canary = Canary(artifact.preprocessing)
        self._canary_task: asyncio.Task[None] | None = None
        self._warm = False
        self._times: tuple[float, float] = (0.0, 0.0)  # of a batch of one and of the largest, in seconds

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self._preprocessing.num_bytes

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the network takes."""
        return self._preprocessing.height, self._preprocessing.width

    @property
    def alive(self) -> bool:
        """Whether images that come now will be judged."""
        return self._batcher.alive

    @property
    def ready(self) -> bool:
        """Whether images that come now will be judged soon, and rightly as far as the canary tells."""
        # Where no decoding thread was free for so long, whoever came when that began has had no answer in time.
        decoding = self._decoders.stuck_s <= self._settings.request_timeout_s
        return self.alive and not self.stalled and decoding and self._canary.right

    @property
    def stalled(self) -> bool:
        """Whether the batch that is judged takes suspiciously long; it may still come to an end."""
        size, seconds = self._batcher.running
        return size > 0 and seconds > self._stalled_after_s(size)

    @property
    def failed(self) -> str | None:
        """Why this process should end: the thread died, or hangs beyond hope; None while all is well."""
        if self._batcher.died:
            return "the inference thread died"
        size, seconds = self._batcher.running
        most = max(self._settings.hang_timeout_s, self._stalled_after_s(size) / _STALLED_SHARE_OF_HANG)
        if size > 0 and seconds > most:
            return f"the inference thread has been judging {size} images for {seconds:.0f} s"
        return None

    @property
    def queued(self) -> int:
        """Number of decoded images that wait for the network."""
        return self._batcher.queued

    @property
    def max_batch_size(self) -> int:
        """Most images in a batch; falls where memory runs out."""
        return self._batcher.max_batch_size

    async def start(self) -> None:
        """Start the thread and judge a canary and a full batch, so that no client waits for what is set up late.

        Raises:
            ScoringError, StoppedError: the network cannot judge even that.
        """
        self._batcher.start()
        try:
            await self._warm_up()
        except BaseException:
            await self.stop()
            raise
        if self._settings.canary_interval_s > 0:
            self._canary_task = asyncio.create_task(self._watch_canary(), name="plumbline-canary")

    def stop_canary(self) -> None:
        """Judge no more canary images."""
        if self._canary_task is not None:
            self._canary_task.cancel()

    async def stop(self) -> None:
        """Judge what is queued, then end the thread."""
        if self._canary_task is not None:
            self._canary_task.cancel()
            await asyncio.wait([self._canary_task])  # however it ended, the thread must end too
        ended = await asyncio.to_thread(self._batcher.stop, 0 if self._batcher.died else self._settings.drain_timeout_s)
        if not ended:
            logger.error("the inference thread did not end within %d s", self._settings.drain_timeout_s)

    def abandon(self) -> None:
        """Give the thread up; whoever waits for it is answered with 503."""
        self._batcher.abandon()

    async def run_in_decoder_pool(self, function: Callable[[bytes], T], data: bytes) -> T:
        """``function(data)`` on a decoding thread, in turn with the images of other requests.

        Raises:
            MemoryRanOutError: there was no memory for it.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, function, data)
        except MemoryError:
            raise MemoryRanOutError from None

    async def score(self, uploads: Sequence[Upload], *, path: bool) -> list[Outcome]:
        """One outcome per upload, in order; cancelling takes what is not yet judged out of the queues.

        Raises:
            UnavailableError: the inference thread has stopped or died, memory ran out, or the deadline passed.
        """
        lane, loop = self._decoders.lane(), asyncio.get_running_loop()
        decoded = await asyncio.gather(*(loop.run_in_executor(lane, self._decode, upload) for upload in uploads))
        for each in decoded:
            if isinstance(each, UnavailableError):
                raise each
        scored = iter(await self.score_pixels([each for each in decoded if isinstance(each, np.ndarray)], path=path))
        return [each if isinstance(each, ImageError | ScoringError) else next(scored) for each in decoded]

    async def score_pixels(self, images: Sequence[np.ndarray], *, path: bool = False) -> list[Verdict | ScoringError]:
        """One outcome per image, each uint8 ``(3, H, W)`` as the network takes them.

        Raises:
            UnavailableError: as `score`.
        """
        if not images:
            return []
        timeout_s = self._settings.request_timeout_s if self._warm else math.inf
        future = self._batcher.submit([_Image(pixels, path) for pixels in images], timeout_s=timeout_s)
        return [_known(outcome) for outcome in await asyncio.wrap_future(future)]

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """Count one batch, those of the start apart; see `service.http.inference.batcher.Observer`."""
        if self._warm:
            self._metrics.batch_done(size, queued_s, scored_s)

    def _decode(self, upload: Upload) -> np.ndarray | ImageError | ScoringError | UnavailableError:
        started = perf_counter()
        try:
            return decode_image(upload.data(), self._preprocessing, self._limits)
        except ImageError as exc:
            return exc  # this image's answer; its neighbours are judged
        except MemoryError:
            return MemoryRanOutError()  # without its cause, whose frames hold on to the memory
        except Exception as exc:
            logger.error("one file could not be decoded", exc_info=True)
            return ScoringError("the file could not be decoded", exc)
        finally:
            if self._warm:
                self._metrics.server.decode_seconds.observe(perf_counter() - started)

    def _score(self, images: list[_Image]) -> list[Verdict]:
        # Divided here, on the CPU, as where the detector was fitted: a GPU multiplies by the reciprocal instead.
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).float().div_(255)
        if self._pipeline.device.type == "cuda":
            pixels = _padded(pixels).pin_memory()
        return self._pipeline.score(pixels, path=any(image.path for image in images))[: len(images)]

    def _classify(self, failure: Exception) -> Failure:
        if isinstance(failure, MemoryError | torch.OutOfMemoryError) or _no_host_memory(failure):
            if self._pipeline.device.type == "cuda":
                torch.cuda.empty_cache()
            return "memory"
        return "items" if self._device_works() else "fatal"

    def _device_works(self) -> bool:
        """Whether the device still computes: after a sticky CUDA error nothing on it does, until the process ends."""
        if self._pipeline.device.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self._pipeline.device)
            return bool(torch.ones(1, device=self._pipeline.device).item())
        except Exception:
            logger.critical("the device fails", exc_info=True)
            return False

    async def _warm_up(self) -> None:
        height, width = self.image_size
        grey = np.full((3, height, width), 128, np.uint8)
        size = self._settings.max_batch_size
        # On a GPU every padded size has kernels of its own to be set up.
        between = [1 << n for n in range(1, size.bit_length())] if self._pipeline.device.type == "cuda" else []
        for count in (1, *between, size):
            _raise_first(await self.score_pixels([grey] * count, path=True))
        times = []
        for count in (1, size):
            started = perf_counter()
            _raise_first(await self.score_pixels([grey] * count, path=True))
            times.append(perf_counter() - started)
        self._times = (times[0], times[1])
        [canary] = await self.score([Upload(self._canary.file)], path=False)
        if isinstance(canary, Exception):
            raise canary
        self._canary.expect(canary)
        while self._batcher.running[0]:  # a batch's figures come after its answers; this one's shall not be counted
            await asyncio.sleep(0.001)
        self._warm = True

    def _stalled_after_s(self, size: int) -> float:
        one, largest = self._times
        if not largest:
            return float("inf")  # at the start; a server that is starting is not ready anyway
        share = (size - 1) / max(1, self._settings.max_batch_size - 1)
        usual = one + share * max(0.0, largest - one)
        most = max(_STALLED_SHARE_OF_HANG * self._settings.hang_timeout_s, _SLOW_FACTOR * usual)
        return min(max(_STALLED_AT_LEAST_S, _STALLED_FACTOR * usual), most)

    async def _watch_canary(self) -> None:
        while True:
            await asyncio.sleep(self._settings.canary_interval_s)
            outcome: Outcome | Exception
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    [outcome] = await self.score([Upload(self._canary.file)], path=False)
            except (UnavailableError, TimeoutError):
                self._metrics.canary("late")  # a full house says nothing about right and wrong
                continue
            except Exception as exc:
                outcome = exc  # the server's way to a verdict is broken, and is watched on
            self._metrics.canary(self._canary.look(outcome))


def _padded(pixels: torch.Tensor) -> torch.Tensor:
    """The batch and grey images up to the next power of two: so few sizes that each has its kernels set up."""
    size = 1 << (len(pixels) - 1).bit_length()
    return torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - len(pixels)), value=0.5)


def _no_host_memory(failure: Exception) -> bool:
    # The CPU's allocator has no exception of its own.
    return isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure)


def _raise_first(outcomes: Sequence[Verdict | ScoringError]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def _known(outcome: Verdict | Exception) -> Verdict | ScoringError:
    """The outcome, if it concerns one image; what concerns the whole request is raised."""
    if isinstance(outcome, Verdict | ScoringError):
        return outcome
    raise outcome
