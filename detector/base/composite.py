"""Detectors that weigh several signs of an abnormal image: some known from natural images alone, one from attacks.

columns, in groups ─┬─→ signs: each a number per image ──→ surprise among natural images ─┐
                    └─→ classifiers, where there were attacked images ──→ surprise ───────┴─→ score

An attack that nobody has seen shows in at least one sign; what attacks have taught is one sign more, and cannot make
the others worse than they are.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.classifiers.conditional import Classifier
from detector.common.arrays import flatten, require_array, require_keys, unflatten
from detector.common.result import ScoreResult
from detector.density.natural import NaturalColumns, Surprise
from detector.features.path_groups import PathGaussians
from models.errors import InputError
from models.features import Features
from models.residuals import BlockTensor

__all__ = ["LEARNT", "Sign", "SignsDetector", "class_scales", "joined"]

Array = np.ndarray

LEARNT = "learnt"  # the sign that the classifiers give
# Both by `python -m benchmarks.search`: between what unseen attacks lose and what seen ones gain.
_POWER = 2  # of the norm that joins surprises: between their sum (1) and their largest (∞)
_LEARNT_WEIGHT = 1.5  # of the surprise at what the classifiers say
_CLASS_QUANTILE = 0.95  # of natural scores, in whose units each predicted class's are counted
_CLASS_PRIOR = 30  # images of a class for which its own quantile counts as much as that of all classes
_RANK_SHARE = 0.25  # of the natural images, on which nothing but surprises is learnt
_NATURAL, _SURPRISE = "natural.", "surprise."  # before a sign's name, in the state
_FEWEST_APART = 8  # natural images; with fewer, surprises come from the images that all else is learnt from


@dataclass(frozen=True)
class Sign:
    """One number per image that is larger where the image is less like natural ones.

    Args:
        name: as it stands beside the score.
        groups: of columns that it looks at.
        by: "distance" to natural columns of the same predicted class, or the "value" itself, of one column.
        column: which column of the group, where it is a value.
    """

    name: str
    groups: tuple[str, ...]
    by: Literal["distance", "value"] = "distance"
    column: int = 0


class SignsDetector(ColumnsDetector):
    """The score is the Euclidean norm of the signs' surprises; a surprise of 2 is one natural image in a hundred.

    The classifiers' sign is the larger of their two probabilities, and its surprise counts one and a half times. The
    norm is divided by what natural images of the same predicted class reach, relative to all, so that one threshold has
    about the same false-positive rate in every class. Votes are the classifiers' probabilities and, of every sign, the
    share of natural images that it is larger for.

    Unlike with other detectors that have classifiers, a score of 0.5 decides nothing. A quarter of the natural images
    is kept aside for surprises and scales; which attacked images were made of these is not known, so the classifiers
    learn from those as well.

    A subclass says its `signs` and computes its groups of columns, for which it is given Gaussians of the vectors
    `gaussians_of`, from reference images.

    Args:
        groups: "all", or those columns to use, joined by "+"; a sign that looks at another group only is left out.
        classifier: what learns from attacked images; "none" learns from natural ones alone.
        num_trees, minimum_per_class, seed, n_jobs: see `ColumnsDetector`.
    """

    needs_reference = True
    signs: ClassVar[Sequence[Sign]]
    group_names: ClassVar[Sequence[str]]
    gaussians_of: ClassVar[Sequence[BlockTensor]]

    gaussians_: PathGaussians
    naturals_: dict[str, NaturalColumns]
    surprises_: dict[str, Surprise]
    widths_: dict[str, int]
    scales_: Array

    def __init__(
        self,
        *,
        groups: str = "all",
        classifier: Classifier = "gradient_boosting",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            classifier=classifier, num_trees=num_trees, minimum_per_class=minimum_per_class, seed=seed, n_jobs=n_jobs
        )
        self.groups = groups

    @abstractmethod
    def _groups(self, features: Features) -> dict[str, Array]:
        """All groups of columns ``(B, F_g)``, those of `group_names`; rows as for `_columns`."""

    def _check_parameters(self) -> None:
        super()._check_parameters()
        chosen = self.groups.split("+") if isinstance(self.groups, str) else []
        if not chosen or (self.groups != "all" and not set(chosen) <= set(self.group_names)):
            raise InputError(
                f"expected groups to be all, or some of {', '.join(self.group_names)} joined by +, "
                f"got {self.groups!r:.200}"
            )
        if self.classifier == "none" and not self.chosen_signs():
            raise InputError(
                f"expected groups that some sign looks at for classifier='none', got {self.groups}; add one of "
                f"{', '.join(dict.fromkeys(group for sign in self.signs for group in sign.groups))}"
            )

    def chosen_groups(self) -> tuple[str, ...]:
        """The names of the groups of columns that are used, in their order."""
        return tuple(self.group_names) if self.groups == "all" else tuple(dict.fromkeys(self.groups.split("+")))

    def chosen_signs(self) -> list[Sign]:
        """The signs that look at some of the chosen groups, with those only."""
        chosen = self.chosen_groups()
        cut = [Sign(s.name, tuple(g for g in s.groups if g in chosen), s.by, s.column) for s in self.signs]
        return [sign for sign in cut if sign.groups]

    def _columns(self, features: Features) -> Array:
        groups = self._groups(features)
        return np.concatenate([groups[name] for name in self.chosen_groups()], axis=1)

    def _outlier_score(self, features: Features) -> Array:
        return self._score(features).score

    # --- learning

    def _prepare(self, reference: Features, labels: Array) -> None:
        self.gaussians_ = PathGaussians.fit(reference, labels, self.gaussians_of)

    def _fit(self, natural: Features, adversarial: Features | None, labels: Array | None) -> None:
        order = np.random.default_rng(self.seed).permutation(len(natural.logits))
        cut = round(len(order) * _RANK_SHARE) if len(order) >= _FEWEST_APART else 0
        rank = natural.take(np.sort(order[:cut] if cut else order))
        learn = natural.take(np.sort(order[cut:]))
        super()._fit(learn, adversarial, None)
        self.widths_ = self._widths(learn.take(np.arange(0)))
        columns = self._finite_columns(learn)
        self.naturals_ = {
            sign.name: NaturalColumns.fit(columns[:, self.places(sign)], learn.predicted, natural.logits.shape[1])
            for sign in self.chosen_signs()
            if sign.by == "distance"
        }
        numbers, _ = self._numbers(self._finite_columns(rank), rank.predicted)
        self.surprises_ = {name: Surprise.fit(values) for name, values in numbers.items()}
        self.scales_ = class_scales(joined(self._surprises(numbers)), rank.predicted, natural.logits.shape[1])

    # --- judging

    def columns(self, features: Features) -> Array:
        """What the fitted detector judges an image by: the chosen groups side by side, float32 ``(B, F)``."""
        return self._finite_columns(features)

    def score_columns(self, columns: Array, predicted: Array) -> ScoreResult:
        """As `score_components`, of columns float32 ``(B, F)``, not necessarily those of an image, and classes."""
        numbers, votes = self._numbers(columns, predicted)
        surprises = self._surprises(numbers)
        shares = {name: 1 - 10**-surprise for name, surprise in surprises.items() if name != LEARNT}
        return ScoreResult(joined(surprises) / self.scales_[predicted], {**votes, **shares})

    def surprises(self, features: Features) -> dict[str, Array]:
        """The surprise of every sign, float64 ``(B,)`` each, of features that the fitted detector can judge."""
        return self._surprises(self._numbers(self.columns(features), features.predicted)[0])

    def _surprises(self, numbers: Mapping[str, Array]) -> dict[str, Array]:
        return {name: self.surprises_[name](values) for name, values in numbers.items()}

    def _numbers(self, columns: Array, predicted: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """The number of every sign ``(B,)`` float64, and the classifiers' votes."""
        if columns.shape[1] != self.column_count_:
            raise InputError(f"expected {self.column_count_} columns, as when fitted, got {columns.shape[1]}")
        numbers: dict[str, Array] = {}
        votes: dict[str, Array] = {}
        if self.classifier != "none":
            judged = self.conditional_.score(columns, predicted)
            numbers[LEARNT], votes = _log_odds(judged.score), judged.components
        for sign in self.chosen_signs():
            looked_at = columns[:, self.places(sign)]
            if sign.by == "value":
                numbers[sign.name] = looked_at[:, sign.column].astype(np.float64)
            else:
                numbers[sign.name] = self.naturals_[sign.name].distances(looked_at, predicted)
        return numbers, votes

    def places(self, sign: Sign) -> Array:
        """Which of the fitted detector's columns a sign looks at, int64."""
        ends = dict(zip(self.widths_, np.cumsum(list(self.widths_.values())), strict=True))
        return np.concatenate([np.arange(ends[name] - self.widths_[name], ends[name]) for name in sign.groups])

    def _score(self, features: Features) -> ScoreResult:
        return self.score_columns(self.columns(features), features.predicted)

    # --- state

    def _reference_state(self) -> dict[str, Array]:
        return self.gaussians_.state()

    def _restore_reference(self, state: Mapping[str, Array]) -> None:
        self.gaussians_ = PathGaussians.from_state(state, self.num_classes_, self.gaussians_of)

    def _state(self) -> dict[str, Array]:
        parts: dict[str, Mapping[str, Array]] = {_NATURAL + name: each.state() for name, each in self.naturals_.items()}
        parts |= {_SURPRISE + name: each.state() for name, each in self.surprises_.items()}
        return {"scales": self.scales_, **flatten(parts), **super()._state()}

    def _known_column_count(self) -> int | None:
        return sum(self.widths_.values())

    def _widths(self, features: Features) -> dict[str, int]:
        """The widths of the chosen groups, which follow from the features' sizes: no image is needed."""
        groups = self._groups(features)
        return {name: groups[name].shape[1] for name in self.chosen_groups()}

    def _restore(self, state: Mapping[str, Array]) -> None:
        self.gaussians_.require_shapes(self.requested_shapes_, self.gaussians_of)
        requested = {name: np.zeros((0, *shape), dtype=np.float32) for name, shape in self.requested_shapes_.items()}
        logits, statistics = (np.zeros((0, n), dtype=np.float32) for n in (self.num_classes_, self.num_columns_))
        self.widths_ = self._widths(Features(logits, statistics, requested))
        self.scales_ = require_array(state, "scales", np.float64, (self.num_classes_,))
        if not ((self.scales_ >= 1e-3) & (self.scales_ <= 1e3)).all():
            raise InputError(
                f"expected scales of the classes around 1, got {self.scales_!r:.200}; the state is damaged"
            )
        rest = {name: array for name, array in state.items() if name != "scales"}
        own = {name: rest.pop(name) for name in state if name.startswith((_NATURAL, _SURPRISE))}
        signs = {sign.name: sign for sign in self.chosen_signs()}
        learnt = [LEARNT] if self.classifier != "none" else []
        apart = [name for name, sign in signs.items() if sign.by == "distance"]
        known = unflatten(
            own, [*(_NATURAL + name for name in apart), *(_SURPRISE + name for name in [*learnt, *signs])]
        )
        self.naturals_ = {
            name: NaturalColumns.from_state(
                known[_NATURAL + name], self.num_classes_, sum(self.widths_[group] for group in signs[name].groups)
            )
            for name in apart
        }
        for sign in signs.values():
            if sign.by == "value" and self.widths_[sign.groups[0]] <= sign.column:
                raise InputError(f"expected more than {sign.column} columns in {sign.groups[0]}; the state is damaged")
        self.surprises_ = {name: Surprise.from_state(known[_SURPRISE + name]) for name in [*learnt, *signs]}
        if self.classifier == "none":
            require_keys(rest, set())
        super()._restore(rest)


def class_scales(norms: Array, predicted: Array, num_classes: int) -> Array:
    """What natural norms ``(N,)`` of each predicted class reach, relative to all, float64 ``(C,)`` around 1.

    It is the ratio of their 95 % quantiles, drawn towards 1 the more the fewer images a class has.
    """
    least = 1e-6  # norms may be 0
    overall = max(float(np.quantile(norms, _CLASS_QUANTILE)), least)
    scales = np.ones(num_classes)
    for k in np.unique(predicted):
        own = norms[predicted == k]
        weight = len(own) / (len(own) + _CLASS_PRIOR)
        scales[k] = (max(float(np.quantile(own, _CLASS_QUANTILE)), least) / overall) ** weight
    return np.clip(scales, 1e-3, 1e3)


def joined(surprises: Mapping[str, Array], *, power: float = _POWER, learnt_weight: float = _LEARNT_WEIGHT) -> Array:
    """The norm of surprises ``(B,)`` by the names of their signs; the sum for power 1, the largest for infinity."""
    weighted = [
        surprise * learnt_weight if name == LEARNT else surprise.astype(np.float64)
        for name, surprise in surprises.items()
    ]
    if power == float("inf"):
        largest: Array = np.maximum.reduce(weighted)
        return largest
    # Added one after the other: a sum over an axis may add up in another order in another batch.
    total = np.zeros_like(weighted[0])
    for each in weighted:
        total += each**power
    norm: Array = total ** (1 / power)
    return norm


def _log_odds(probability: Array) -> Array:
    """log(p / (1 − p)) of probabilities that may be 0 or 1: a forest's often are."""
    inside = np.clip(probability, 1e-9, 1 - 1e-9)
    odds: Array = np.log(inside / (1 - inside))
    return odds
