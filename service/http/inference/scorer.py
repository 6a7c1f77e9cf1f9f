"""The function that the inference thread runs: uint8 images through the pipeline, on its device."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from detector.pipeline import Pipeline, Verdict
from service.http.batching.batcher import Failure

__all__ = ["DecodedImage", "PipelineScorer"]

logger = logging.getLogger("plumbline.inference")


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Pixels uint8 ``(3, H, W)``, and whether the verdict includes the path."""

    pixels: np.ndarray
    path: bool


class PipelineScorer:
    """Verdicts on batches of decoded images, and the scope of a failure.

    Args:
        pipeline: used by one thread only.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    def on_gpu(self) -> bool:
        """Whether the pipeline runs on a CUDA device."""
        return self.pipeline.device.type == "cuda"

    def __call__(self, images: list[DecodedImage]) -> list[Verdict]:
        """One verdict per image, in order."""
        # Divided on the CPU, as when the detector was fitted: a GPU multiplies by the reciprocal instead.
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).float().div_(255)
        if self.on_gpu:
            pixels = pad_to_power_of_two(pixels).pin_memory()
        return self.pipeline.score(pixels, path=any(image.path for image in images))[: len(images)]

    def classify(self, failure: Exception) -> Failure:
        """The scope of an exception of a call."""
        if isinstance(failure, MemoryError | torch.OutOfMemoryError) or _is_host_allocation(failure):
            if self.on_gpu:
                torch.cuda.empty_cache()
            return "memory"
        return "items" if self.device_works() else "fatal"

    def device_works(self) -> bool:
        """Whether the device still computes; after a sticky CUDA error it does not, until the process ends."""
        if not self.on_gpu:
            return True
        try:
            torch.cuda.synchronize(self.pipeline.device)
            return bool(torch.ones(1, device=self.pipeline.device).item())
        except Exception:
            logger.critical("the device fails", exc_info=True)
            return False


def pad_to_power_of_two(pixels: torch.Tensor) -> torch.Tensor:
    """The batch and grey images up to the next power of two: few sizes, each with its kernels set up in advance."""
    size = 1 << (len(pixels) - 1).bit_length()
    return torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - len(pixels)), value=0.5)


def _is_host_allocation(failure: Exception) -> bool:
    # The CPU allocator has no exception type of its own.
    return isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure)
