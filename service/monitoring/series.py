"""One watched series of images: all images of a model, of one API key, or of one predicted class."""

import copy
import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detector.calibration import Calibration
from models.errors import InputError
from service.monitoring.cusum import PagingRule, paging_rule
from service.monitoring.urn import ODDS, FlagTest, RankTest, bins_of

__all__ = ["BLOCK", "DELTAS", "MAX_BLOCKS", "Change", "Level", "Series"]

BLOCK = 250  # images of one point of the chart
MAX_BLOCKS = 80

# Probability that a test ever warns in a stream, of any length, that matches the calibration.
DELTAS = {"flags": 0.004, "distribution": 0.001}

Level = Literal["ok", "warning", "page"]
Change = Literal["flags", "distribution", "page", "page_end"]


@dataclass
class Series:
    """Tests and counts of one series, in constant memory and time per image.

    Each test of `service.monitoring.urn` warns at an e-value of ``share / DELTAS[test]``, then stops, because the urn
    would adapt to the new rate. The CUSUM pages, and the page ends when its sum is back at 0.

    Args:
        fpr: the requested false-positive rate.
        flagged_ranks: k of the calibration.
        ranks: n + 1 of the calibration.
        share: of `DELTAS`; the number of series that divide it.
        rule: of pages; None: no pages.
    """

    fpr: float
    flagged_ranks: int
    ranks: int
    share: int
    rule: PagingRule | None
    images: int = 0
    flagged: int = 0
    recent_rate: float = 0.0
    cusum: int = 0
    paging: bool = False
    block: int = 0  # flags among the images since the last full block
    warned: dict[str, int] = field(default_factory=dict)  # test → image of its warning

    def __post_init__(self) -> None:
        self.flags = FlagTest(self.flagged_ranks, self.ranks)
        self.distribution = RankTest(bins_of(self.ranks))
        self.histogram = [0] * len(self.distribution.bins)
        self.blocks: deque[int] = deque(maxlen=MAX_BLOCKS)
        self.recent_rate = self.fpr

    @classmethod
    def of(cls, calibration: Calibration, *, share: int = 1, pages: bool = False) -> "Series":
        """A series whose images have p-values of `calibration`."""
        k, ranks = calibration.flagged_ranks, len(calibration.scores) + 1
        return cls(calibration.fpr, k, ranks, share, paging_rule(k, ranks, calibration.fpr) if pages else None)

    @property
    def level(self) -> Level:
        """The most severe state of this series."""
        return "page" if self.paging else "warning" if self.warned else "ok"

    def add(self, rank: int, flagged: bool) -> list[Change]:
        """Take one image into account.

        Args:
            rank: (n + 1)·p, from 1 to n + 1.
            flagged: whether rank ≤ k.

        Returns:
            The warnings and pages that start or end with this image.
        """
        changes: list[Change] = []
        place = (rank - 1) * len(self.histogram) // self.ranks
        self.images += 1
        self.flagged += flagged
        self.histogram[place] += 1
        self.recent_rate += (flagged - self.recent_rate) / BLOCK
        self.block += flagged
        if self.images % BLOCK == 0:
            self.blocks.append(self.block)
            self.block = 0
        if "flags" not in self.warned:
            self.flags.update(flagged)
            if flagged and self.flags.value >= self.share / DELTAS["flags"]:  # the value falls at other images
                self._warn("flags", changes)
        if "distribution" not in self.warned:
            self.distribution.update(place)
            if self.distribution.value >= self.share / DELTAS["distribution"]:
                self._warn("distribution", changes)
        if self.rule is not None:
            self._page(flagged, self.rule, changes)
        return changes

    def _warn(self, test: Literal["flags", "distribution"], changes: list[Change]) -> None:
        self.warned[test] = self.images
        changes.append(test)

    def _page(self, flagged: bool, rule: PagingRule, changes: list[Change]) -> None:
        # Not above the threshold: the page ends soon after the rate is normal again.
        self.cusum = min(max(self.cusum - 1 + rule.gain * flagged, 0), rule.threshold)
        if not self.paging and self.cusum >= rule.threshold:
            self.paging = True
            changes.append("page")
        elif self.paging and self.cusum == 0:
            self.paging = False
            changes.append("page_end")

    def summary(self) -> dict[str, Any]:
        """Level, counts and e-values, as JSON values for status and log."""
        return {
            "level": self.level,
            "images": self.images,
            "flagged": self.flagged,
            "recent_rate": self.recent_rate,
            "log10_e": {
                "flags": log10_e(self.flags.value),
                "distribution": log10_e(self.distribution.value),
            },
            "warned_at": dict(self.warned),
            "warns_from": {test: math.log10(self.share / delta) for test, delta in DELTAS.items()},
        }

    def to_json(self) -> dict[str, Any]:
        """Everything that `restored` needs, as JSON values."""
        own = {name: value for name, value in asdict(self).items() if name != "rule"}
        tests = {"flags": asdict(self.flags), "distribution": asdict(self.distribution)}
        return own | tests | {"histogram": list(self.histogram), "blocks": list(self.blocks)}

    def restored(self, state: Mapping[str, Any]) -> "Series":
        """This series, which has taken no image into account, with the state of `to_json`.

        Raises:
            InputError: the state is of another calibration or invalid.
        """
        try:
            flags, distribution = FlagTest(**state["flags"]), RankTest(**state["distribution"])
            same = (state["fpr"], state["flagged_ranks"], state["ranks"]) == (self.fpr, self.flagged_ranks, self.ranks)
            bins = bins_of(self.ranks)
            if not same or list(distribution.bins) != bins:
                raise InputError("the state is of another calibration")
            lengths = (len(flags.bets), len(distribution.counts), len(distribution.recent))
            if lengths != (len(ODDS), len(bins), len(bins)) or not math.isfinite(flags.value + distribution.value):
                raise InputError("the state is invalid: the values of its tests")
            for name in ("images", "flagged", "cusum", "block"):
                setattr(self, name, int(state[name]))
            self.recent_rate, self.paging = float(state["recent_rate"]), bool(state["paging"])
            self.warned = {str(name): int(image) for name, image in state["warned"].items()}
            self.blocks.extend(map(int, state["blocks"]))
            self.histogram[:] = [int(state["histogram"][place]) for place in range(len(self.histogram))]
            self.flags, self.distribution = flags, distribution
            trial = copy.deepcopy(self)  # a value of a wrong type would fail at every image
            for rank in (1, self.ranks):
                trial.add(rank, rank == 1)
            json.dumps([trial.to_json(), trial.summary()], allow_nan=False)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as exc:
            raise InputError(f"the state is invalid: {exc!r}") from exc
        return self


def log10_e(value: float) -> float:
    """log₁₀ of an e-value, at least −9."""
    return max(math.log10(value), -9.0) if value > 0 else -9.0
