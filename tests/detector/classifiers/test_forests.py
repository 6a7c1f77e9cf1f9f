"""Forest inference equals scikit-learn's bit for bit, and refuses arrays that are not trees."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from detector.classifiers.forests import MAXIMUM_DEPTH, Forests
from models.errors import InputError

COLUMNS = 7


def training_set(rng: np.random.Generator, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, so that trees grow deep and leaves are many."""
    labels = np.repeat([0, 1], count // 2)
    columns = rng.normal(size=(count, COLUMNS)) + 0.4 * labels[:, None]
    return columns.astype(np.float32), labels


def fitted(rng: np.random.Generator, number: int, num_trees: int = 20, **options: int) -> list[RandomForestClassifier]:
    return [
        RandomForestClassifier(num_trees, random_state=int(rng.integers(1000)), **options).fit(*training_set(rng))
        for _ in range(number)
    ]


def queries_of_all(forests: Forests, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, which): every row of every forest."""
    rows, which = np.meshgrid(np.arange(len(columns)), np.arange(len(forests)))
    return rows.ravel(), which.ravel()


def reference(forests: list[RandomForestClassifier], columns: np.ndarray) -> np.ndarray:
    return np.concatenate([forest.predict_proba(columns)[:, 1] for forest in forests])


def test_equals_scikit_learn_to_the_last_bit(rng: np.random.Generator) -> None:
    forests = fitted(rng, 3, num_trees=100)
    columns = rng.normal(size=(257, COLUMNS)).astype(np.float32)
    ours = Forests.from_sklearn(forests)
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference(forests, columns))


def test_equals_scikit_learn_on_the_thresholds_themselves(rng: np.random.Generator) -> None:
    forests = fitted(rng, 1, num_trees=40)
    tree = forests[0].estimators_[0].tree_
    inner = tree.children_left >= 0
    # Each row sits on one node's threshold, as nearly as float32 can, and one step to either side of it.
    on = np.zeros((inner.sum(), COLUMNS), dtype=np.float32)
    on[np.arange(len(on)), tree.feature[inner]] = tree.threshold[inner]
    columns = np.concatenate([on, np.nextafter(on, np.float32(9)), np.nextafter(on, np.float32(-9))])
    ours = Forests.from_sklearn(forests)
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference(forests, columns))


@pytest.mark.parametrize(
    "options", [{"max_depth": 1}, {"max_depth": 3}, {"min_samples_leaf": 40}, {"max_leaf_nodes": 9}]
)
def test_equals_scikit_learn_for_other_trees(rng: np.random.Generator, options: dict[str, int]) -> None:
    forests = fitted(rng, 2, **options)
    columns = rng.normal(size=(50, COLUMNS)).astype(np.float32)
    ours = Forests.from_sklearn(forests)
    assert np.array_equal(ours.probability(columns, *queries_of_all(ours, columns)), reference(forests, columns))


def test_trees_that_are_a_single_leaf(rng: np.random.Generator) -> None:
    columns, labels = np.ones((30, COLUMNS), dtype=np.float32), np.repeat([0, 1], [20, 10])
    forest = RandomForestClassifier(9, random_state=0).fit(columns, labels)
    ours = Forests.from_sklearn([forest])
    assert ours.depth == 0
    queries = queries_of_all(ours, columns)
    assert np.array_equal(ours.probability(columns, *queries), reference([forest], columns))


def test_each_row_is_answered_by_the_forest_it_asked(rng: np.random.Generator) -> None:
    forests = fitted(rng, 4)
    columns = rng.normal(size=(40, COLUMNS)).astype(np.float32)
    rows, which = rng.integers(40, size=90), rng.integers(4, size=90)
    answers = Forests.from_sklearn(forests).probability(columns, rows, which)
    table = np.stack([forest.predict_proba(columns)[:, 1] for forest in forests])
    assert np.array_equal(answers, table[which, rows])


def test_no_rows(rng: np.random.Generator) -> None:
    ours = Forests.from_sklearn(fitted(rng, 1))
    nothing = np.zeros(0, dtype=np.int64)
    assert ours.probability(np.zeros((0, COLUMNS), dtype=np.float32), nothing, nothing).shape == (0,)


def test_torch_equals_numpy_to_the_last_bit(rng: np.random.Generator) -> None:
    ours = Forests.from_sklearn(fitted(rng, 3, num_trees=30))
    on_device = ours.on("cpu")
    for count in (1, 2, 30):
        columns = rng.normal(size=(count, COLUMNS)).astype(np.float32)
        queries = queries_of_all(ours, columns)
        tensors = on_device.probability(torch.from_numpy(columns), *map(torch.from_numpy, queries))
        assert np.array_equal(tensors.numpy(), ours.probability(columns, *queries))


def test_state_round_trip(rng: np.random.Generator) -> None:
    ours = Forests.from_sklearn(fitted(rng, 2))
    again = Forests.from_state(ours.state(), COLUMNS)
    columns = rng.normal(size=(30, COLUMNS)).astype(np.float32)
    queries = queries_of_all(ours, columns)
    assert np.array_equal(ours.probability(columns, *queries), again.probability(columns, *queries))


def test_forests_of_different_sizes_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="one size"):
        Forests.from_sklearn([*fitted(rng, 1, num_trees=5), *fitted(rng, 1, num_trees=6)])


def an_inner_node(state: dict[str, np.ndarray]) -> int:
    """An inner node that is no root, of the tree with the most nodes to spare after it."""
    inner = np.flatnonzero(state["left"] != np.arange(len(state["left"])))
    return int(next(node for node in inner if node not in state["roots"]))


def a_leaf(state: dict[str, np.ndarray]) -> int:
    return int(np.flatnonzero(state["left"] == np.arange(len(state["left"])))[0])


def put(
    name: str, where: Callable[[dict[str, np.ndarray]], int], value: float
) -> Callable[[dict[str, np.ndarray]], None]:
    def change(state: dict[str, np.ndarray]) -> None:
        state[name][where(state)] = value

    return change


def child_of_itself_above(state: dict[str, np.ndarray]) -> None:
    state["left"][an_inner_node(state)] = 0


def child_in_the_next_tree(state: dict[str, np.ndarray]) -> None:
    state["left"][an_inner_node(state)] = state["roots"][0, 1]


def two_parents(state: dict[str, np.ndarray]) -> None:
    inner = np.flatnonzero(state["left"] != np.arange(len(state["left"])))
    own = inner[inner < state["roots"][0, 1]]
    state["left"][own[0]] = state["left"][own[1]]


def swapped_roots(state: dict[str, np.ndarray]) -> None:
    state["roots"][:] = state["roots"][:, ::-1].copy()


def root_out_of_range(state: dict[str, np.ndarray]) -> None:
    state["roots"][-1, -1] = len(state["left"])


def late_root(state: dict[str, np.ndarray]) -> None:
    state["roots"][0, 0] = 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (child_of_itself_above, "cycle"),
        (child_in_the_next_tree, "out of range"),
        (put("left", an_inner_node, 2**31 - 2), "out of range"),
        (put("left", an_inner_node, -1), "cycle"),
        (two_parents, "exactly one parent"),
        (swapped_roots, "roots"),
        (root_out_of_range, "roots"),
        (late_root, "roots"),
        (put("feature", an_inner_node, COLUMNS), "columns"),
        (put("feature", an_inner_node, -1), "columns"),
        (put("threshold", an_inner_node, np.nan), "finite"),
        (put("threshold", an_inner_node, np.inf), "finite"),
        (put("value", a_leaf, np.nan), "finite"),
        (put("value", a_leaf, 1.5), "leaf values"),
        (put("value", a_leaf, -0.5), "leaf values"),
        (put("threshold", a_leaf, 1.0), "leaves without a division"),
        (put("value", an_inner_node, 0.5), "inner nodes without a value"),
        (lambda state: state.pop("value"), "expected the arrays"),
        (lambda state: state.update(code=np.zeros(1)), "expected the arrays"),
        (lambda state: state.update(left=state["left"].astype(np.int64)), "int32"),
        (lambda state: state.update(value=state["value"][:-1]), "shape"),
        (lambda state: state.update(roots=state["roots"].ravel()), "shape"),
        (lambda state: state.update(roots=state["roots"][:0]), "roots"),
    ],
)
def test_damaged_arrays_are_refused(
    rng: np.random.Generator, change: Callable[[dict[str, np.ndarray]], None], complaint: str
) -> None:
    state = {name: array.copy() for name, array in Forests.from_sklearn(fitted(rng, 2, num_trees=5)).state().items()}
    change(state)
    with pytest.raises(InputError, match=complaint):
        Forests.from_state(state, COLUMNS)


def test_trees_too_deep_are_refused() -> None:
    # A comb: every left child is a leaf, every right child goes on.
    levels = MAXIMUM_DEPTH + 1
    left = np.arange(2 * levels + 1, dtype=np.int32)
    parents = np.concatenate([[0], np.arange(2, 2 * levels, 2)])
    left[parents] = 2 * np.arange(levels) + 1
    nodes = len(left)
    state = {
        "left": left,
        "feature": np.zeros(nodes, dtype=np.int32),
        "threshold": np.zeros(nodes, dtype=np.float32),
        "value": np.zeros(nodes),
        "roots": np.zeros((1, 1), dtype=np.int32),
    }
    with pytest.raises(InputError, match="levels"):
        Forests.from_state(state, COLUMNS)
