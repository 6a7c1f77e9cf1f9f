"""The watched series of one version of a model: all images, and the images of each API key and predicted class."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from detector.calibration import Calibration, Interval
from models.errors import InputError
from service.monitoring.series import BLOCK, Change, Series

__all__ = ["ALL", "MAX_CLASSES", "MAX_KEYS", "MIN_CLASS_IMAGES", "ModelWatch"]

ALL = "all"
MAX_KEYS = 32
MAX_CLASSES = 64
MIN_CLASS_IMAGES = 100  # calibration images of a class that is watched


class ModelWatch:
    """Series by name: "all", "key:NAME" and "class:INDEX". Only the series of all images has pages.

    The series of all keys together have the same probability of a false warning as the series of all images. So have
    the series of all classes together.

    The images of a key are compared with the whole calibration, because the false-positive rate holds for every client.
    The images of a predicted class are compared with the calibration images of this class, because the flag rates of
    natural images differ between classes.

    Args:
        calibration: of the artifact; without predicted classes, no class is watched.

    Attributes:
        repeated: number of images that did not count because they resembled earlier ones; kept in memory only.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._ranks = len(calibration.scores) + 1
        self._band = calibration.expected_realised_rate(BLOCK, 0.99)
        self.repeated = 0
        self.all = Series.of(calibration, pages=True)
        self.keys: OrderedDict[str, Series] = OrderedDict()
        self._scores = _scores_by_class(calibration)
        self.classes = {
            index: Series.of(Calibration(np.array(scores), calibration.fpr), share=len(self._scores))
            for index, scores in self._scores.items()
        }

    @property
    def band(self) -> Interval:
        """The 99 % interval of the flag rate in `BLOCK` images that match the calibration."""
        return self._band

    def __iter__(self) -> Iterator[tuple[str, Series]]:
        """Name and series of those with images, and of all images."""
        yield ALL, self.all
        yield from ((f"key:{name}", series) for name, series in self.keys.items())
        yield from ((f"class:{index}", series) for index, series in self.classes.items() if series.images)

    def add(
        self, *, p_value: float, flagged: bool, score: float, label: int, key: str | None
    ) -> list[tuple[str, Series, Change]]:
        """Take one image into account.

        Args:
            p_value: of the verdict.
            flagged: of the verdict.
            score: of the verdict.
            label: the predicted class.
            key: name of the API key; None: the server has no keys.

        Returns:
            Name of the series, the series, and the change, for each warning or page that starts or ends.
        """
        rank = round(p_value * self._ranks)
        changes = [(ALL, self.all, change) for change in self.all.add(rank, flagged)]
        if key is not None:
            series = self._of_key(key)
            changes += [(f"key:{key}", series, change) for change in series.add(rank, flagged)]
        if label in self.classes:
            series, scores = self.classes[label], self._scores[label]
            rank = 1 + len(scores) - bisect_left(scores, score)
            changes += [(f"class:{label}", series, each) for each in series.add(rank, rank <= series.flagged_ranks)]
        return changes

    def _of_key(self, key: str) -> Series:
        series = self.keys.get(key)
        if series is None:
            if len(self.keys) >= MAX_KEYS:  # the key without images for the longest time
                self.keys.popitem(last=False)
            series = self.keys[key] = Series.of(self._calibration, share=MAX_KEYS)
        else:
            self.keys.move_to_end(key)
        return series

    def to_json(self) -> dict[str, Any]:
        """The state of all series with images, by name."""
        return {name: series.to_json() for name, series in self}

    def restored(self, state: Mapping[str, Any]) -> "ModelWatch":
        """This watch, which has taken no image into account, with the state of `to_json`.

        Raises:
            InputError: the state is of another calibration or invalid.
        """
        for name, fields in state.items():
            group, _, member = name.partition(":")
            if name == ALL:
                self.all.restored(fields)
            elif group == "key" and len(self.keys) < MAX_KEYS:
                self._of_key(member).restored(fields)
            elif group == "class" and member.isdecimal() and int(member) in self.classes:
                self.classes[int(member)].restored(fields)
            else:
                raise InputError(f"the state has an unknown series: {name!r:.100}")
        return self


def _scores_by_class(calibration: Calibration) -> dict[int, list[float]]:
    """Sorted scores of the classes with the most calibration images."""
    if calibration.predicted is None:
        return {}
    labels, counts = np.unique(calibration.predicted, return_counts=True)
    enough = counts >= max(MIN_CLASS_IMAGES, round(1 / calibration.fpr))
    most = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
    return {
        int(labels[place]): calibration.scores[calibration.predicted == labels[place]].tolist()
        for place in most
        if enough[place]
    }
