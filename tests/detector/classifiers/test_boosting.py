"""Gradient boosting inference equals scikit-learn's bit for bit, and refuses arrays that are not boostings."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from detector.classifiers.boosting import ITERATIONS, GradientBoostings
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.transport import Transport
from models.errors import InputError
from models.features import Features, extract_features
from models.residuals import discover
from tests.detector.conftest import noisy, planted
from tests.detector.embedded import clusters, embedded

COLUMNS = 7

State = dict[str, np.ndarray]


def training_set(rng: np.random.Generator, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, not equally many of both."""
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    columns = rng.normal(size=(count, COLUMNS)) + 0.4 * labels[:, None]
    return columns.astype(np.float32), labels


def fitted(rng: np.random.Generator, iterations: list[int], **options: float) -> list[HistGradientBoostingClassifier]:
    """One model per number of iterations, each on images of its own."""
    return [
        HistGradientBoostingClassifier(
            max_iter=number, early_stopping=False, random_state=int(rng.integers(1000)), **options
        ).fit(*training_set(rng))
        for number in iterations
    ]


def queries_of_all(ours: GradientBoostings, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, which): every row of every model."""
    rows, which = np.meshgrid(np.arange(len(columns)), np.arange(len(ours)))
    return rows.ravel(), which.ravel()


def reference(models: list[HistGradientBoostingClassifier], columns: np.ndarray) -> np.ndarray:
    return np.concatenate([model.predict_proba(columns)[:, 1] for model in models])


@pytest.mark.parametrize("options", [{}, {"max_depth": 1}, {"max_leaf_nodes": 60, "min_samples_leaf": 2}])
def test_equals_scikit_learn_to_the_last_bit(rng: np.random.Generator, options: dict[str, float]) -> None:
    models = fitted(rng, [60, 60, 60], **options)
    columns = rng.normal(size=(257, COLUMNS)).astype(np.float32)
    ours = GradientBoostings.from_sklearn(models)
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference(models, columns))


def test_equals_scikit_learn_on_the_thresholds_themselves(rng: np.random.Generator) -> None:
    models = fitted(rng, [40])
    nodes = np.concatenate([predictor.nodes for (predictor,) in models[0]._predictors])
    inner = nodes[nodes["is_leaf"] == 0]
    # Each row sits on one node's threshold, as nearly as float32 can, and one step to either side of it.
    on = np.zeros((len(inner), COLUMNS), dtype=np.float32)
    on[np.arange(len(on)), inner["feature_idx"]] = inner["num_threshold"]
    columns = np.concatenate([on, np.nextafter(on, np.float32(9)), np.nextafter(on, np.float32(-9))])
    ours = GradientBoostings.from_sklearn(models)
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference(models, columns))


def test_models_of_different_numbers_of_trees(rng: np.random.Generator) -> None:
    models = fitted(rng, [3, 40, 1, 17])
    ours = GradientBoostings.from_sklearn(models)
    assert np.diff(ours.starts).tolist() == [3, 40, 1, 17]
    columns = rng.normal(size=(40, COLUMNS)).astype(np.float32)
    rows, which = rng.integers(40, size=90), rng.integers(4, size=90)
    table = np.stack([model.predict_proba(columns)[:, 1] for model in models])
    assert np.array_equal(ours.probability(columns, rows, which), table[which, rows])


def test_values_as_far_as_float32_goes(rng: np.random.Generator) -> None:
    columns, labels = training_set(rng)
    columns[labels == 1, 2] = np.finfo(np.float32).max
    columns[labels == 0, 3] = -np.finfo(np.float32).max
    model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(columns, labels)
    ours = GradientBoostings.from_sklearn([model])
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference([model], columns))


def test_trees_that_are_a_single_leaf(rng: np.random.Generator) -> None:
    columns, labels = np.ones((30, COLUMNS), dtype=np.float32), np.repeat([0, 1], [20, 10])
    model = HistGradientBoostingClassifier(max_iter=9).fit(columns, labels)
    ours = GradientBoostings.from_sklearn([model])
    assert ours.depth == 0
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference([model], columns))


def test_a_row_does_not_depend_on_the_rows_beside_it(rng: np.random.Generator) -> None:
    ours = GradientBoostings.from_sklearn(fitted(rng, [30, 12]))
    columns = rng.normal(size=(3000, COLUMNS)).astype(np.float32)
    rows, which = rng.permutation(3000), rng.integers(2, size=3000)
    together = ours.probability(columns, rows, which)
    for queries in (0, 1, 2047, 2048, 2999):
        row = rows[queries]
        alone = ours.probability(columns[row : row + 1], np.zeros(1, dtype=np.int64), which[queries : queries + 1])
        assert alone[0] == together[queries]


def test_no_rows(rng: np.random.Generator) -> None:
    ours = GradientBoostings.from_sklearn(fitted(rng, [2]))
    nothing = np.zeros(0, dtype=np.int64)
    assert ours.probability(np.zeros((0, COLUMNS), dtype=np.float32), nothing, nothing).shape == (0,)


def test_fit_is_seeded_and_separates_the_classes(rng: np.random.Generator) -> None:
    groups = [training_set(rng, 600), training_set(rng, 150)]
    columns, labels = training_set(rng, 900)
    once, again, otherwise = (GradientBoostings.fit(groups, seed=seed) for seed in (1, 1, 2))
    assert len(once) == 2
    assert np.diff(once.starts).tolist() == [ITERATIONS, ITERATIONS]
    queries = queries_of_all(once, columns)
    probability = once.probability(columns, *queries)
    assert np.array_equal(probability, again.probability(columns, *queries))
    assert not np.array_equal(probability, otherwise.probability(columns, *queries))
    for answers in probability.reshape(2, -1):
        assert ((answers > 0) & (answers < 1)).all()
        assert np.mean(answers[labels == 1][:, None] > answers[labels == 0]) > 0.55


def test_state_round_trip(rng: np.random.Generator) -> None:
    ours = GradientBoostings.from_sklearn(fitted(rng, [10, 4]))
    again = GradientBoostings.from_state(ours.state(), COLUMNS)
    assert all(array.dtype.kind in "fi" for array in ours.state().values())
    columns = rng.normal(size=(30, COLUMNS)).astype(np.float32)
    queries = queries_of_all(ours, columns)
    assert np.array_equal(ours.probability(columns, *queries), again.probability(columns, *queries))


def test_models_that_do_not_belong_together_are_refused(rng: np.random.Generator) -> None:
    columns, labels = training_set(rng)
    narrower = HistGradientBoostingClassifier(max_iter=2).fit(columns[:, :-1], labels)
    with pytest.raises(InputError, match="equal numbers of columns"):
        GradientBoostings.from_sklearn([*fitted(rng, [2]), narrower])
    with pytest.raises(InputError, match="labels 0 and 1"):
        GradientBoostings.from_sklearn([HistGradientBoostingClassifier(max_iter=2).fit(columns, labels + 1)])
    columns[:, 0] = labels
    categories = HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]).fit(columns, labels)
    with pytest.raises(InputError, match="categories"):
        GradientBoostings.from_sklearn([categories])


def an_inner_node(state: State) -> int:
    """An inner node that is no root, of the first tree that has one."""
    inner = np.flatnonzero(state["left"] != np.arange(len(state["left"])))
    return int(next(node for node in inner if node not in state["roots"]))


def a_leaf(state: State) -> int:
    return int(np.flatnonzero(state["left"] == np.arange(len(state["left"])))[0])


def put(name: str, where: Callable[[State], int], value: float) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name][where(state)] = value

    return change


def first(state: State) -> int:
    return 0


def child_of_itself_above(state: State) -> None:
    state["left"][an_inner_node(state)] = 0


def child_in_the_next_tree(state: State) -> None:
    state["left"][0] = state["roots"][1]


def two_parents(state: State) -> None:
    state["left"][0] = state["left"][an_inner_node(state)]


def swapped_roots(state: State) -> None:
    state["roots"][:] = state["roots"][::-1].copy()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (child_of_itself_above, "cycle"),
        (child_in_the_next_tree, "out of range"),
        (put("left", an_inner_node, 2**31 - 2), "out of range"),
        (put("left", an_inner_node, -1), "cycle"),
        (two_parents, "exactly one parent"),
        (swapped_roots, "roots"),
        (put("roots", first, 1), "roots"),
        (put("feature", an_inner_node, COLUMNS), "columns"),
        (put("feature", an_inner_node, -1), "columns"),
        (put("threshold", an_inner_node, np.nan), "finite"),
        (put("threshold", an_inner_node, np.inf), "finite"),
        (put("value", a_leaf, np.nan), "finite"),
        (put("value", a_leaf, np.inf), "finite"),
        (put("value", a_leaf, 1e7), "leaf values"),
        (put("value", a_leaf, -1e300), "leaf values"),
        (put("threshold", a_leaf, 1.0), "leaves without a division"),
        (put("value", an_inner_node, 0.5), "inner nodes without a value"),
        (put("baseline", first, np.nan), "finite"),
        (put("baseline", first, -1e7), "baselines"),
        (put("starts", first, 1), "trees of its own"),
        (put("starts", lambda state: 1, 0), "trees of its own"),
        (put("starts", lambda state: 1, 9), "trees of its own"),
        (put("starts", lambda state: 2, 7), "trees of its own"),
        *[
            (lambda state, name=name: state.pop(name), "expected the arrays")
            for name in ("feature", "threshold", "left", "value", "roots", "starts", "baseline")
        ],
        (lambda state: state.update(code=np.zeros(1)), "expected the arrays"),
        (lambda state: state.update(left=state["left"].astype(np.int64)), "int32"),
        (lambda state: state.update(threshold=state["threshold"].astype(np.float64)), "float32"),
        (lambda state: state.update(starts=state["starts"].astype(np.int32)), "int64"),
        (lambda state: state.update(value=state["value"][:-1]), "shape"),
        (lambda state: state.update(roots=state["roots"][None]), "shape"),
        (lambda state: state.update(baseline=state["baseline"][:1]), "shape"),
        (lambda state: state.update(baseline=np.zeros(0), starts=np.zeros(1, dtype=np.int64)), "trees of its own"),
        (lambda state: state.update(roots=state["roots"][:0]), "roots"),
    ],
)
def test_damaged_arrays_are_refused(rng: np.random.Generator, change: Callable[[State], None], complaint: str) -> None:
    models = fitted(rng, [5, 3])
    state = {name: array.copy() for name, array in GradientBoostings.from_sklearn(models).state().items()}
    change(state)
    with pytest.raises(InputError, match=complaint):
        GradientBoostings.from_state(state, COLUMNS)


def digit_features(network: nn.Module, seed: int) -> tuple[Features, Features]:
    """Features of 400 handwritten digits and of the same ones under noise, by an untrained network."""
    digits = torch.from_numpy(load_digits().images[:400] / 16).float()
    images = digits.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, None].expand(-1, 3, -1, -1).contiguous()
    discovery = discover(network, (3, 16, 16))
    generator = torch.Generator().manual_seed(seed)
    natural, attacked = (extract_features(network, x, discovery=discovery) for x in (images, noisy(images, generator)))
    return natural, attacked


def test_transport_with_boosting(tiny_network: nn.Module, seed: int) -> None:
    natural, attacked = digit_features(tiny_network, seed)
    half, rest = np.arange(0, 400, 2), np.arange(1, 400, 2)
    detector = Transport(classifier="gradient_boosting", seed=seed).fit(natural.take(half), attacked.take(half))
    calm, odd = detector.score(natural.take(rest)), detector.score(attacked.take(rest))
    assert np.mean(calm[:, None] < odd) > 0.55
    again = Transport.from_state(detector.parameters(), detector.state())
    assert np.array_equal(again.score(attacked), detector.score(attacked))
    alone = [detector.score(attacked.take(np.array([row])))[0] for row in range(0, 400, 80)]
    assert np.array_equal(detector.score(attacked)[::80], alone)


def test_votes_are_scikit_learns_boostings(rng: np.random.Generator, seed: int) -> None:
    natural, attacked, fresh = planted(rng, 200), planted(rng, 150, shift=0.2), planted(rng, 80, shift=0.1)
    detector = Transport(classifier="gradient_boosting", seed=seed).fit(natural, attacked)
    columns, labels = np.concatenate([natural.statistics, attacked.statistics]), np.repeat([0, 1], [200, 150])
    predicted = np.concatenate([natural.predicted, attacked.predicted])
    options = {"max_iter": ITERATIONS, "learning_rate": 0.05, "max_leaf_nodes": 15, "max_depth": 6}
    model = HistGradientBoostingClassifier(
        **options, l2_regularization=1.0, max_features=0.5, early_stopping=False, random_state=seed
    )
    votes = detector.score_components(fresh).components
    assert np.array_equal(votes["all_class"], model.fit(columns, labels).predict_proba(fresh.statistics)[:, 1])
    own = model.fit(columns[predicted == 2], labels[predicted == 2]).predict_proba(fresh.statistics)[:, 1]
    assert np.array_equal(votes["predicted_class"][fresh.predicted == 2], own[fresh.predicted == 2])


def test_a_class_of_two_images_can_be_learnt(rng: np.random.Generator) -> None:
    few = planted(rng, 12), planted(rng, 12, shift=0.3)
    detector = Transport(classifier="gradient_boosting", minimum_per_class=1).fit(*few)
    assert np.isfinite(detector.score(few[0])).all()


def test_other_detectors_accept_the_classifier(rng: np.random.Generator) -> None:
    def features(spread: float) -> Features:
        vectors, labels = clusters(rng, 120)
        return embedded(vectors + spread * rng.normal(size=vectors.shape), labels)

    detector = Mahalanobis(classifier="gradient_boosting").prepare(features(0)).fit(features(0), features(8))
    assert np.mean(detector.score(features(0))[:, None] < detector.score(features(8))) > 0.9
    again = Mahalanobis.from_state(detector.parameters(), detector.state())
    fresh = features(4)
    assert np.array_equal(again.score(fresh), detector.score(fresh))


def test_a_state_of_forests_is_refused(rng: np.random.Generator) -> None:
    forests = Transport(num_trees=3).fit(planted(rng, 100), planted(rng, 100, shift=0.3))
    with pytest.raises(InputError, match="baseline"):
        Transport.from_state(forests.parameters() | {"classifier": "gradient_boosting"}, forests.state())
