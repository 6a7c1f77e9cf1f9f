"""Agreement of a surrogate with its detector."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "Sides"]


class Sides(NamedTuple):
    """Numbers of images for which surrogate and detector are on the same side of the threshold.

    Attributes:
        flagged, flagged_alike: images that the detector flags, and those of them above the surrogate's threshold.
        passed, passed_alike: images that the detector accepts, and those of them below the surrogate's threshold.
    """

    flagged: int
    flagged_alike: int
    passed: int
    passed_alike: int

    @property
    def worse(self) -> float | None:
        """The smaller of both shares; the only one if the other side has no images; None without images."""
        return min(self._shares(), default=None)

    @property
    def balanced(self) -> float | None:
        """The mean of both shares, so that both sides have the same weight; None if one side has no images."""
        shares = self._shares()
        return sum(shares) / 2 if len(shares) == 2 else None

    def _shares(self) -> list[float]:
        sides = ((self.flagged_alike, self.flagged), (self.passed_alike, self.passed))
        return [alike / count for alike, count in sides if count]

    def to_json(self) -> dict[str, Any]:
        """The counts and both shares."""
        return {**self._asdict(), "balanced": self.balanced, "worse": self.worse}


@dataclass(frozen=True)
class Agreement:
    """Agreement on originals of which no image was used to fit the surrogate.

    Args:
        originals: number of these originals.
        plain: on the natural images, Carlini and Wagner's images and noisy images of them.
        descent: on the iterates of one selective descent against the final surrogate.
    """

    originals: int
    plain: Sides
    descent: Sides

    def to_json(self) -> dict[str, Any]:
        """All counts and shares, by name."""
        return {
            "held_out_originals": self.originals,
            "plain_images": self.plain.to_json(),
            "descent_on_final_surrogate": self.descent.to_json(),
        }

    def to_array(self) -> NDArray[np.int64]:
        """``(9,)``, for a file."""
        return np.array([self.originals, *self.plain, *self.descent], dtype=np.int64)

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> "Agreement":
        """The inverse of `to_array`."""
        first, *others = (int(count) for count in counts)
        return cls(first, Sides(*others[:4]), Sides(*others[4:]))
