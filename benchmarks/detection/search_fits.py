"""What a choice of columns, a learner and the signs say of the table's images, fold by fold; kept in the cache."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn

from attacks.common.digests import arrays_digest
from benchmarks.detection.search_columns import Columns
from detector.base.composite import SignsDetector
from detector.classifiers.boosting import GradientBoostings
from detector.classifiers.conditional import Classifier
from detector.detectors.fusion import Fusion
from models.features import Features
from service.cache import EvaluationCache, code_closure, code_digest
from service.evaluation.records import NATURAL

__all__ = ["Fits", "TabledFusion"]

Array = np.ndarray
Said = dict[str, dict[str, Array]]  # set → what → a number per image of the set


class TabledFusion(SignsDetector):
    """`fusion` on columns that were made before: a group is what was "measured" under its name."""

    needs_reference = False
    group_names = Fusion.group_names
    signs = Fusion.signs
    gaussians_of = ()

    def _groups(self, features: Features) -> dict[str, Array]:
        return {name: features.requested[name] for name in self.group_names}


class Fits:
    """Learners fitted on all folds but one, and what they say of the images of that one.

    Args:
        table: sets of images by name, "natural" among them.
        tested: names of the sets to be judged.
        fold: of every original, ``(N,)``.
    """

    def __init__(
        self, table: Mapping[str, Columns], tested: Sequence[str], fold: Array, seed: int, cache: EvaluationCache
    ) -> None:
        self._table, self._tested, self._fold, self._seed, self._cache = table, (NATURAL, *tested), fold, seed, cache
        self._key = {
            "code": [code_closure("detector.detectors.fusion"), code_digest(sys.modules[__name__])],
            "scikit-learn": sklearn.__version__, "numpy": np.__version__, "seed": seed,
            "fold": arrays_digest({"fold": fold}), "tested": {name: table[name].key for name in self._tested},
        }  # fmt: skip

    def boosting(self, groups: Sequence[str], fit: Sequence[str]) -> dict[str, Array]:
        """Probabilities by one gradient boosting on those groups of columns, learnt from natural images and a fit."""

        def judged(train: Mapping[str, Features], test: Features) -> dict[str, Array]:
            natural, attacked = _columns(train[NATURAL], groups), _columns(train["fit"], groups)
            kinds = np.repeat([0, 1], [len(natural), len(attacked)])
            model = GradientBoostings.fit([(np.concatenate([natural, attacked]), kinds)], seed=self._seed)
            rows = np.arange(len(test.logits))
            return {"all_class": model.probability(_columns(test, groups), rows, np.zeros_like(rows))}

        said = self._said({"what": "boosting", "groups": list(groups)}, fit, judged)
        return {name: each["all_class"] for name, each in said.items()}

    def signs(self, classifier: Classifier, fit: Sequence[str]) -> Said:
        """Of `fusion`: the "surprise:" at every sign by name, and the classifiers' votes where there are some."""

        def judged(train: Mapping[str, Features], test: Features) -> dict[str, Array]:
            detector = TabledFusion(classifier=classifier, seed=self._seed)
            detector.fit(train[NATURAL], train.get("fit"))
            found = {f"surprise:{name}": values for name, values in detector.surprises(test).items()}
            votes = detector.score_components(test).components
            return found | {name: votes[name] for name in ("all_class", "predicted_class") if name in votes}

        return self._said({"what": "signs", "classifier": classifier}, fit, judged)

    def _said(self, what: dict[str, Any], fit: Sequence[str], judged: Any) -> Said:
        key = {**self._key, **what, "fit": {name: self._table[name].key for name in fit}}
        entry = self._cache.load("search", key)
        if entry is None:
            said = self._over_folds(fit, judged)
            arrays = {f"{name}|{part}": values for name, parts in said.items() for part, values in parts.items()}
            self._cache.save("search", key, arrays, {})
            return said
        found: Said = {name: {} for name in self._tested}
        for name, values in entry[0].items():
            head, _, part = name.partition("|")
            found[head][part] = values
        return found

    def _over_folds(self, fit: Sequence[str], judged: Any) -> Said:
        said: Said = {name: {} for name in self._tested}
        for fold in np.unique(self._fold):
            train = {NATURAL: self._rows(NATURAL, self._fold != fold)[1]}
            if fit:
                train["fit"] = Features.concatenated([self._rows(name, self._fold != fold)[1] for name in fit])
            parts = {name: self._rows(name, self._fold == fold) for name in self._tested}
            found = judged(train, Features.concatenated([features for _, features in parts.values()]))
            start = 0
            for name, (rows, _) in parts.items():
                for part, values in found.items():
                    into = said[name].setdefault(part, np.full(len(self._table[name].originals), np.nan))
                    into[rows] = values[start : start + len(rows)]
                start += len(rows)
        return said

    def _rows(self, name: str, originals: Array) -> tuple[Array, Features]:
        """Rows of a set whose originals are meant ``(N,)`` bool, and their features."""
        columns = self._table[name]
        rows = np.flatnonzero(originals[columns.originals])
        return rows, columns.features.take(rows)


def _columns(features: Features, groups: Sequence[str]) -> Array:
    return np.concatenate([features.requested[name] for name in groups], axis=1)
