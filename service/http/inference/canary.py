"""The canary: an image with a known verdict, scored periodically to detect a server that returns wrong results."""

import logging
from io import BytesIO

import numpy as np
from PIL import Image

from detector.pipeline import Verdict
from models.images.preprocessing import Preprocessing

__all__ = ["Canary"]

logger = logging.getLogger("plumbline.canary")

_SCORE_TOLERANCE = 1e-6


class Canary:
    """A PNG file of fixed noise and its expected verdict.

    Args:
        preprocessing: of the artifact; it accepts the file's size.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        shape = (preprocessing.height, preprocessing.width)
        if preprocessing.crop is not None:
            shape = (max(preprocessing.resize or 0, preprocessing.crop),) * 2
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        self.file = stream.getvalue()
        self.right = True
        self._expected: Verdict | None = None

    def expect(self, verdict: Verdict) -> None:
        """Set the expected verdict."""
        self._expected = verdict
        self.right = True

    def check(self, outcome: Verdict | Exception) -> str:
        """Compare `outcome` with the expected verdict: "right", "wrong" or "failed"."""
        if isinstance(outcome, Exception):
            result, message = "failed", f"the canary image could not be scored: {outcome}"
        elif self._matches(outcome):
            result, message = "right", "the canary image has the expected verdict again"
        else:
            result, message = "wrong", f"expected the canary's verdict {self._expected}, got {outcome}"
        if (result == "right") != self.right:
            level = logging.INFO if result == "right" else logging.CRITICAL
            logger.log(level, message, exc_info=outcome if isinstance(outcome, Exception) else None)
        self.right = result == "right"
        return result

    def _matches(self, verdict: Verdict) -> bool:
        expected = self._expected
        return (
            expected is not None
            and (verdict.label, verdict.flagged) == (expected.label, expected.flagged)
            and abs(verdict.score - expected.score) <= _SCORE_TOLERANCE
        )
