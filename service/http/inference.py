"""From uploaded files to verdicts: decoded by a pool of threads, judged in batches by the one that owns the network."""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from detector.artifact import Artifact
from detector.verdict import Verdict
from models.decoding import Limits, decode_image
from models.errors import ImageError
from service.http.batcher import Batcher, JudgeError, StoppedError
from service.http.decoders import Decoders
from service.http.metrics import Metrics
from service.http.settings import Settings
from service.http.uploads import Upload

__all__ = ["Inference", "Outcome"]

logger = logging.getLogger("plumbline.inference")

Outcome = Verdict | ImageError | JudgeError
T = TypeVar("T")


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
    """

    def __init__(self, artifact: Artifact, settings: Settings, metrics: Metrics) -> None:
        self._pipeline = artifact.pipeline
        self._preprocessing = artifact.preprocessing
        self._settings = settings
        self._metrics = metrics
        self._limits = Limits(max_pixels=settings.max_pixels)
        self._batcher: Batcher[_Image, Verdict] | None = None
        self._decoders: Decoders | None = None
        self.draining = False

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image."""
        return 3 * self._preprocessing.height * self._preprocessing.width

    @property
    def alive(self) -> bool:
        """Whether images that come now will be judged."""
        return self._batcher is not None and self._batcher.alive

    @property
    def died(self) -> bool:
        """Whether the inference thread ended without being asked to."""
        return self._batcher is not None and self._batcher.died

    async def start(self) -> None:
        """Start the threads and judge one blank image, so that the first client does not wait for what is set up late.

        Raises:
            JudgeError, StoppedError: the network cannot judge even that.
        """
        self._decoders = Decoders(self._settings.decode_threads)
        self._batcher = Batcher(
            self._judge,
            max_batch_size=self._settings.max_batch_size,
            max_queue_delay_s=self._settings.max_queue_delay_ms / 1000,
            observer=self._metrics,
            on_start=functools.partial(torch.set_num_threads, self._settings.torch_threads),
        )
        self._metrics.watch_queue(lambda: self._batcher.queued if self._batcher else 0)
        self._batcher.start()
        blank = np.full((3, self._preprocessing.height, self._preprocessing.width), 128, np.uint8)
        [outcome] = await asyncio.wrap_future(self._batcher.submit([_Image(blank, path=True)]))
        if isinstance(outcome, Exception):
            raise outcome

    async def stop(self) -> None:
        """Judge what is queued, then end the threads."""
        if self._batcher is not None:
            ended = await asyncio.to_thread(self._batcher.stop, self._settings.drain_timeout_s)
            if not ended:
                logger.error("the inference thread did not end within %d s", self._settings.drain_timeout_s)
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)

    async def off_loop(self, function: Callable[[bytes], T], data: bytes) -> T:
        """``function(data)`` on a decoding thread."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, data)

    async def judge(self, uploads: Sequence[Upload], *, path: bool) -> list[Outcome]:
        """One outcome per upload, in order; cancelling takes what is not yet judged out of the queues.

        Raises:
            UnavailableError: the inference thread has stopped or died, or the deadline passed.
        """
        if self._batcher is None or self._decoders is None:
            raise StoppedError
        loop = asyncio.get_running_loop()
        decoded = await asyncio.gather(*(loop.run_in_executor(self._decoders, self._decode, u) for u in uploads))
        images = [_Image(pixels, path) for pixels in decoded if not isinstance(pixels, ImageError)]
        judged: list[Verdict | Exception] = []
        if images:
            future = self._batcher.submit(images, timeout_s=self._settings.request_timeout_s)
            judged = await asyncio.wrap_future(future)
        answers = iter(judged)
        return [_known(pixels if isinstance(pixels, ImageError) else next(answers)) for pixels in decoded]

    def _decode(self, upload: Upload) -> np.ndarray | ImageError:
        started = perf_counter()
        try:
            return decode_image(upload.data(), self._preprocessing, self._limits)
        except ImageError as exc:
            return exc  # this image's answer; its neighbours are judged
        finally:
            self._metrics.decode_seconds.observe(perf_counter() - started)

    def _judge(self, images: list[_Image]) -> list[Verdict]:
        # Divided here, on the CPU, as where the detector was fitted: a GPU multiplies by the reciprocal instead.
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).float().div_(255)
        return self._pipeline.judge(pixels, path=any(image.path for image in images))


def _known(outcome: Verdict | Exception) -> Outcome:
    """The outcome, if it concerns one image; what concerns the whole request is raised."""
    if isinstance(outcome, Verdict | ImageError | JudgeError):
        return outcome
    raise outcome
