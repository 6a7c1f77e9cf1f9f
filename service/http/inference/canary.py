"""An image whose verdict is known, sent through the real path again and again: does the server still say the same?"""

import logging
from io import BytesIO

import numpy as np
from PIL import Image

from detector.pipeline import Verdict
from models.images.preprocessing import Preprocessing

__all__ = ["Canary"]

logger = logging.getLogger("plumbline.canary")

_SAME_SCORE = 1e-6


class Canary:
    """A PNG file of fixed noise, what was first said of it, and whether that is still said.

    Args:
        preprocessing: of the artifact; the file has a size that it takes.
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
        """Take `verdict` for the right one."""
        self._expected = verdict
        self.right = True

    def look(self, outcome: Verdict | Exception) -> str:
        """Compare an outcome with what is right: "right", "wrong" or "failed"."""
        if isinstance(outcome, Exception):
            said, message = "failed", f"the canary image could not be judged: {outcome}"
        elif self._same(outcome):
            said, message = "right", "the canary image is judged rightly again"
        else:
            said, message = "wrong", f"the canary image is judged {outcome}, which was {self._expected}"
        if (said == "right") != self.right:
            level = logging.INFO if said == "right" else logging.CRITICAL
            logger.log(level, message, exc_info=outcome if isinstance(outcome, Exception) else None)
        self.right = said == "right"
        return said

    def _same(self, verdict: Verdict) -> bool:
        expected = self._expected
        return (
            expected is not None
            and (verdict.label, verdict.flagged) == (expected.label, expected.flagged)
            and abs(verdict.score - expected.score) <= _SAME_SCORE
        )
