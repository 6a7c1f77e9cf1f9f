"""A detector that combines the tail scores of several components.

columns, in groups ─┬─→ components: a number per image each ─────────→ tail score among natural images ─┐
                    └─→ classifiers, if attacked images were given ──→ tail score ──────────────────────┴─→ score

An attack that no classifier was fitted on is large in at least one component. The classifiers of attacked images are
one further component and do not weaken the others.
"""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, get_args

import numpy as np

from detector.base.classifier_option import NeedsAdversarial
from detector.base.combination import class_scales, combine, harmonic_mean
from detector.base.detector import Detector
from detector.classifiers.conditional import Classifier, ClassifierOptions
from detector.common.array_api import Array, constants, float32_columns, namespace
from detector.common.arrays import flatten, require_array, unflatten
from detector.common.result import ComponentInfo, ScoreResult
from detector.components.base import ColumnTable, Component, Inputs, Reference, Sizes
from detector.components.classifier import ClassifierOdds
from detector.density.tail_score import TailScore, TailScores
from models.errors import InputError
from models.features import FeatureRequest, Features

__all__ = ["CompositeDetector"]

_RANK_SHARE = 0.25  # share of the natural images that only tail scores and class scales learn from
_SCALE_POWER = 0.5  # exponent of the scales of parts; 1 separates images less well, see decision 20
_MIN_RANKED = 8  # with fewer natural images, tail scores and components learn from the same images


class CompositeDetector(Detector):
    """The score is the Euclidean norm of the components' tail scores; a tail score of 2 is one natural image in 100.

    The classifiers are one component: the larger of their two probabilities, with weight 1.5. The norm is divided by
    the scale of the predicted class, so that one threshold has about the same false-positive rate in every class.
    `components` of the result has the classifiers' probabilities and, for every other component, the share of natural
    images with a smaller number.

    A score of 0.5 has no special meaning, unlike that of detectors with classifiers only. Tail scores and scales are
    learned from a quarter of the natural images, and the rest from the others. Adversarial images are not divided: the
    classifiers learn from all of them.

    A subclass lists its components in `declare`. It can divide them into `parts`, such as "attack" and "outlier". Every
    part then has a norm of its own, divided by the square root of its scale, and the tail scores of these norms are
    combined into the score by the harmonic mean of their shares. A component can belong to several parts.

    Args:
        groups: "all", or the groups of columns to use, joined by "+". A component without any of its groups is dropped.
        classifier: kind of classifier of attacked images; "none" to learn from natural images alone.
        num_trees, minimum_per_class, seed, n_jobs: see `ClassifierOptions`.
    """

    needs_reference = True
    needs_adversarial = NeedsAdversarial()
    column_order: ClassVar[Sequence[str]] = ()  # first groups; others follow by component
    parts: ClassVar[Mapping[str, Sequence[str]]] = {}  # names of the components of each part; none: no parts

    declared_: tuple[Component, ...]
    components_: tuple[Component, ...]
    tail_scores_: dict[str, TailScore]
    widths_: dict[str, int]
    scales_: np.ndarray
    part_rows_: list[list[int]]
    part_tail_scores_: dict[str, TailScore]

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
        self.groups = groups
        self.classifier = classifier
        self.num_trees = num_trees
        self.minimum_per_class = minimum_per_class
        self.seed = seed
        self.n_jobs = n_jobs

    @abstractmethod
    def declare(self) -> tuple[Component, ...]:
        """New, unfitted components, without the classifiers."""

    # --- components, parts and groups of columns

    @property
    def components(self) -> tuple[Component, ...]:
        """The components in use: the classifiers, if any, and those that use some of the chosen groups."""
        return self.components_ if hasattr(self, "components_") else self._used(self._declared())

    def component_info(self) -> dict[str, ComponentInfo]:
        """Title and description of every value beside the score."""
        scored = (each for each in self.components if each.in_score)
        return {name: info for each in scored for name, info in each.info().items()}

    def part_names(self) -> tuple[str, ...]:
        """Names of the parts that have components in the score."""
        scored = {each.name for each in self._scored()}
        return tuple(part for part, names in self.parts.items() if not scored.isdisjoint(names))

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The feature requests of all components and of their references."""
        declared = self._declared()
        parts = (*_references(declared), *declared)
        return tuple(dict.fromkeys(request for part in parts for request in part.feature_requests()))

    @property
    def has_differentiable_columns(self) -> bool:
        """Whether `columns` runs on tensors with gradients."""
        return all(each.differentiable for each in self.components if each.groups)

    @property
    def is_differentiable(self) -> bool:
        """Whether `combined` runs on tensors with gradients."""
        return all(each.differentiable for each in self.components)

    def chosen_groups(self) -> tuple[str, ...]:
        """Names of the groups of columns in use, in the order of the columns."""
        return self._all_groups() if self.groups == "all" else tuple(dict.fromkeys(self.groups.split("+")))

    def _all_groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.column_order, *(name for each in self._declared() for name in each.groups)]))

    def _declared(self) -> tuple[Component, ...]:
        return self.declared_ if hasattr(self, "declared_") else self.declare()

    def _used(self, declared: Sequence[Component]) -> tuple[Component, ...]:
        chosen = self.chosen_groups()
        used = [each for each in declared if not set(each.groups).isdisjoint(chosen)]
        if self.classifier == "none":
            return tuple(used)
        seen = {name for each in used if each.for_classifiers for name in each.groups}
        return ClassifierOdds(self._classifier_options(), [name for name in chosen if name in seen]), *used

    def _classifier_options(self) -> ClassifierOptions:
        return ClassifierOptions(self.classifier, self.num_trees, self.minimum_per_class, self.seed, self.n_jobs)

    def _check_parameters(self) -> None:
        self._classifier_options().check(get_args(Classifier))
        chosen = self.groups.split("+") if isinstance(self.groups, str) else []
        if not chosen or (self.groups != "all" and not set(chosen) <= set(self._all_groups())):
            raise InputError(
                f"expected groups to be all, or some of {', '.join(self._all_groups())} joined by +, "
                f"got {self.groups!r:.200}"
            )
        if not any(each.in_score for each in self._used(self.declare())):
            scored = dict.fromkeys(name for each in self.declare() if each.in_score for name in each.groups)
            raise InputError(
                f"classifier='none' and groups={self.groups!r} leave no component for the score; add one of "
                f"{', '.join(scored)}"
            )

    def _unused_options(self) -> tuple[str, ...]:
        # The seed also divides the natural images.
        return tuple(name for name in self._classifier_options().unused() if name != "seed")

    # --- fitting

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        self.declared_ = self.declare()
        for part in (*_references(self.declared_), *self.declared_):
            part.prepare(reference, labels)

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        order = np.random.default_rng(self.seed).permutation(len(natural.logits))
        cut = round(len(order) * _RANK_SHARE) if len(order) >= _MIN_RANKED else 0
        ranked = self._table(natural.take(np.sort(order[:cut] if cut else order)))
        learned = self._table(natural.take(np.sort(order[cut:])))
        attacked = None if adversarial is None or self.classifier == "none" else self._table(adversarial)
        self.widths_ = {name: values.shape[1] for name, values in learned.groups.items()}
        self.components_ = self._used(self._declared())
        for each in self.components_:
            each.fit(learned, attacked)
        numbers = self._numbers(ranked)
        self._use({each.name: TailScore.fit(row) for each, row in zip(self._scored(), numbers, strict=True)})
        norms = self._norms(self._weighted(self.all_tail_scores_(numbers)))
        scales = [class_scales(row, ranked.predicted, ranked.num_classes) for row in np.atleast_2d(norms)]
        self.scales_ = np.stack(scales) ** _SCALE_POWER if self.part_rows_ else scales[0]
        scaled = np.atleast_2d(norms / self.scales_[..., ranked.predicted])
        self._use_parts({name: TailScore.fit(row) for name, row in zip(self.part_names(), scaled, strict=False)})

    # --- scoring

    def column_groups(self, features: Features | Inputs) -> dict[str, Array]:
        """All groups of columns ``(N, F_g)`` of the components in use, by name, from the prepared detector."""
        inputs = features if isinstance(features, Inputs) else Inputs(*features)
        return {name: values for each in self.components for name, values in each.columns(inputs).items()}

    def columns(self, features: Features | Inputs) -> Array:
        """The chosen groups side by side, float32 ``(N, F)``; on tensors, with gradients."""
        groups = self.column_groups(features)
        # A fitted detector has the chosen groups in `widths_`; a search among the components takes longer.
        parts = [groups[name] for name in getattr(self, "widths_", None) or self.chosen_groups()]
        return float32_columns(namespace(*parts).concat(parts, axis=1))

    def score_columns(self, columns: np.ndarray, predicted: np.ndarray) -> ScoreResult:
        """Score and components from columns float32 ``(B, F)``, which need not be those of images, and classes."""
        table = self._divided(columns, predicted)
        tail_scores = self.all_tail_scores_(self._numbers(table))
        weighted, shares = self._weighted(tail_scores), 1 - 10**-tail_scores
        norms = self._norms(weighted)
        score = scaled = norms / self.scales_[..., predicted]
        parts: dict[str, np.ndarray] = {}
        if self.part_tail_scores_:
            rows = self.all_part_tail_scores_(scaled)
            score, parts = harmonic_mean(rows), dict(zip(self.part_tail_scores_, rows, strict=True))
            weighted = self._comparable(weighted, norms, rows)
        values: dict[str, np.ndarray] = {}
        contributions: dict[str, np.ndarray] = {}
        for each, contribution, share in zip(self._scored(), weighted, shares, strict=True):
            own = each.values(table)
            if not own:
                values[each.name], contributions[each.name] = share, contribution
                continue
            largest = functools.reduce(np.maximum, own.values())
            values |= own
            contributions |= {name: contribution * (value == largest) for name, value in own.items()}
        return ScoreResult(score, values, contributions, parts)

    def combined(self, columns: Array, predicted: Array) -> Array:
        """The score float64 ``(B,)`` of columns ``(B, F)`` and predicted classes; on tensors, with gradients."""
        (scales,) = constants(columns, self.scales_)
        tail_scores = self.all_tail_scores_(self._numbers(self._divided(columns, predicted)))
        scaled = self._norms(self._weighted(tail_scores)) / scales[..., predicted]
        return harmonic_mean(self.all_part_tail_scores_(scaled)) if self.part_tail_scores_ else scaled

    def tail_scores(self, features: Features) -> dict[str, np.ndarray]:
        """The tail score of every component in the score, float64 ``(B,)`` each."""
        rows = self.all_tail_scores_(self._numbers(self._divided(self.columns(features), features.predicted)))
        return {each.name: row for each, row in zip(self._scored(), rows, strict=True)}

    def _score(self, features: Features) -> ScoreResult:
        return self.score_columns(self.columns(features), features.predicted)

    def _scored(self) -> list[Component]:
        return [each for each in self.components if each.in_score]

    def _table(self, features: Features) -> ColumnTable:
        """The columns of features, before the widths of the groups are known."""
        groups = self.column_groups(features)
        chosen = {name: float32_columns(groups[name]) for name in self.chosen_groups()}
        return ColumnTable(chosen, features.predicted, features.logits.shape[1])

    def _divided(self, columns: Array, predicted: Array) -> ColumnTable:
        """The columns ``(B, F)`` divided into groups, by the widths that `fit` stored."""
        groups, start = {}, 0
        for name, width in self.widths_.items():
            groups[name] = columns[:, start : start + width]
            start += width
        if columns.shape[1] != start:
            raise InputError(f"expected {start} columns, as when fitted, got {columns.shape[1]}")
        return ColumnTable(groups, predicted, self.scales_.shape[-1], columns)

    def _numbers(self, table: ColumnTable) -> Array:
        """The numbers of the components in the score, ``(S, B)``."""
        numbers = [each.score(table) for each in self._scored()]
        return namespace(*numbers).stack(numbers, axis=0)

    def _weighted(self, tail_scores: Array) -> Array:
        (weights,) = constants(tail_scores, self.weights_)
        return weights * tail_scores

    def _norms(self, weighted: Array) -> Array:
        """The norm of the weighted tail scores ``(S, B)``: ``(B,)``, or ``(P, B)`` of P parts."""
        if not self.part_rows_:
            return combine(weighted)
        return namespace(weighted).stack([combine(weighted[rows, :]) for rows in self.part_rows_], axis=0)

    def _comparable(self, weighted: np.ndarray, norms: np.ndarray, tail_scores: np.ndarray) -> np.ndarray:
        """Contributions ``(S, B)``, comparable between parts: the norm of those of a part is the part's tail score."""
        contributions = np.zeros_like(weighted)
        for rows, norm, tail_score in zip(self.part_rows_, norms, tail_scores, strict=True):
            own = weighted[rows] * (tail_score / np.maximum(norm, np.finfo(np.float64).tiny))
            contributions[rows] = np.maximum(contributions[rows], own)
        return contributions

    def _use_parts(self, tail_scores: dict[str, TailScore]) -> None:
        self.part_tail_scores_ = tail_scores
        if tail_scores:
            self.all_part_tail_scores_ = TailScores(list(tail_scores.values()))

    def _use(self, tail_scores: dict[str, TailScore]) -> None:
        self.tail_scores_ = tail_scores
        self.all_tail_scores_ = TailScores(list(tail_scores.values()))
        self.weights_ = np.array([[each.weight] for each in self._scored()])
        self.part_rows_ = [
            [row for row, name in enumerate(tail_scores) if name in self.parts[part]] for part in self.part_names()
        ]

    # --- state

    def _reference_state(self) -> dict[str, np.ndarray]:
        return flatten({each.name: each.state() for each in _references(self._declared())})

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        self.declared_ = self.declare()
        references = _references(self.declared_)
        parts, sizes = unflatten(state, [each.name for each in references]), self._sizes()
        for each in references:
            each.restore(parts[each.name], sizes)

    def _state(self) -> dict[str, np.ndarray]:
        components = {f"component.{each.name}": each.state() for each in self.components_}
        tail_scores = {f"tail_score.{name}": each.state() for name, each in self.tail_scores_.items()}
        parts = {f"part.{name}": each.state() for name, each in self.part_tail_scores_.items()}
        return {"scales": self.scales_, **flatten(components | tail_scores | parts)}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.components_, sizes, parts = self._used(self.declared_), self._sizes(), self.part_names()
        shape = (len(parts), self.num_classes_) if parts else (self.num_classes_,)
        self.scales_ = require_array(state, "scales", np.float64, shape)
        if not ((self.scales_ >= 1e-3) & (self.scales_ <= 1e3)).all():
            raise InputError(
                f"expected scales of the classes around 1, got {self.scales_!r:.200}; the state is damaged"
            )
        scored = [each.name for each in self._scored()]
        names = [*(f"component.{each.name}" for each in self.components_), *(f"tail_score.{name}" for name in scored)]
        names += [f"part.{name}" for name in parts]
        states = unflatten({name: array for name, array in state.items() if name != "scales"}, names)
        others = [each for each in self.components_ if not isinstance(each, ClassifierOdds)]
        for each in others:
            each.restore(states[f"component.{each.name}"], sizes)
        groups = self.column_groups(sizes.inputs)
        self.widths_ = {name: groups[name].shape[1] for name in sizes.groups}
        for each in self.components_:
            if isinstance(each, ClassifierOdds):
                each.restore(states[f"component.{each.name}"], sizes._replace(widths=self.widths_))
        self._use({name: TailScore.from_state(states[f"tail_score.{name}"]) for name in scored})
        self._use_parts({name: TailScore.from_state(states[f"part.{name}"]) for name in parts})

    def _sizes(self) -> Sizes:
        requested = {
            each.name: np.zeros((0, *self.requested_shapes_[each.name]), dtype=np.float32)
            for each in self.feature_requests()
        }
        logits, statistics = (np.zeros((0, n), dtype=np.float32) for n in (self.num_classes_, self.num_columns_))
        return Sizes(self.num_classes_, Inputs(logits, statistics, requested), self.chosen_groups())


def _references(components: Sequence[Component]) -> tuple[Reference, ...]:
    return tuple(dict.fromkeys(reference for each in components for reference in each.references()))
