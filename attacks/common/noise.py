"""Random numbers for attacks, with one independent stream per image."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["ImageNoise"]


class ImageNoise:
    """Random numbers for one batch, from one stream per image, so that results do not depend on the batch size.

    Args:
        seed: the attack's seed.
        first: position of the batch's first image among the images of the call.
    """

    def __init__(self, seed: int, first: int) -> None:
        self._seed = seed
        self._first = first

    def uniform(self, images: Tensor, draw: int = 0) -> Tensor:
        """Numbers uniform in [-1, 1), with the images' shape ``(B, C, H, W)``, dtype and device.

        Args:
            images: template of shape, dtype and device.
            draw: index of the draw; the same index gives the same numbers, so restarts count up.
        """
        rows = [
            # A counter-based generator: seed and position are the key, the draw is part of the counter.
            np.random.Generator(
                np.random.Philox(key=np.array([self._seed, position], dtype=np.uint64), counter=[0, 0, 0, draw])
            ).random(tuple(images.shape[1:]), dtype=np.float32)
            for position in range(self._first, self._first + len(images))
        ]
        return torch.from_numpy(np.stack(rows)).to(images) * 2 - 1

    def generators(self, count: int, device: torch.device) -> list[torch.Generator]:
        """One generator per image for the first `count` images, for attacks that draw step by step."""
        words = [
            np.random.SeedSequence([self._seed, position]).generate_state(1, np.uint64)[0] >> np.uint64(1)
            for position in range(self._first, self._first + count)
        ]
        return [torch.Generator(device).manual_seed(int(word)) for word in words]
