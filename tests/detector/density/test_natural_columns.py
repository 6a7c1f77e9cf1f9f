"""Distances of columns to natural ones of the same class."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from detector.density.natural_columns import NaturalColumns
from models.errors import InputError

CLASSES, COLUMNS = 4, 5

State = dict[str, np.ndarray]


def natural_rows(rng: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(correlated columns float32 of very different sizes, predicted classes); no image has the last class."""
    predicted = np.arange(count) % (CLASSES - 1)
    means = rng.normal(size=(CLASSES, COLUMNS))
    mixing = np.eye(COLUMNS) + 0.3 * rng.normal(size=(COLUMNS, COLUMNS))
    rows = (means[predicted] + rng.normal(size=(count, COLUMNS)) @ mixing) * 10.0 ** np.arange(-2, COLUMNS - 2) + 3
    return rows.astype(np.float32), predicted


def around_own_class(columns: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class means, rows minus the mean of their class), float64; a class without rows has the mean of all."""
    rows = columns.astype(np.float64)
    means = np.stack([rows[predicted == k if (predicted == k).any() else slice(None)].mean(0) for k in range(CLASSES)])
    return means, rows - means[predicted]


def test_distances_are_scikit_learns_around_the_own_class(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    means, centred = around_own_class(columns, predicted)
    reference = EmpiricalCovariance(assume_centered=True).fit(centred)
    fresh = columns[:50] + 5 * rng.normal(size=(50, COLUMNS)).astype(np.float32)
    classes = rng.integers(CLASSES - 1, size=50)
    found = NaturalColumns.fit(columns, predicted, CLASSES).distances(fresh, classes)
    np.testing.assert_allclose(found, reference.mahalanobis(fresh.astype(np.float64) - means[classes]), rtol=1e-5)


def test_a_class_without_natural_images_has_the_mean_of_all(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    means, centred = around_own_class(columns, predicted)
    precision = np.linalg.inv(centred.T @ centred / len(centred))
    last = np.full(7, CLASSES - 1)
    found = NaturalColumns.fit(columns, predicted, CLASSES).distances(columns[:7], last)
    expected = [mahalanobis(row, means[-1], precision) ** 2 for row in columns[:7].astype(np.float64)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e30])
def test_constant_columns_change_nothing(rng: np.random.Generator, constant: float) -> None:
    columns, predicted = natural_rows(rng)
    padded = np.insert(columns, 2, np.float32(constant), axis=1)
    alone, beside = (NaturalColumns.fit(each, predicted, CLASSES) for each in (columns, padded))
    np.testing.assert_allclose(beside.distances(padded, predicted), alone.distances(columns, predicted), rtol=1e-7)


def test_a_row_does_not_depend_on_the_rows_beside_it(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    natural = NaturalColumns.fit(columns, predicted, CLASSES)
    alone = [natural.distances(columns[[row]], predicted[[row]])[0] for row in range(30)]
    assert np.array_equal(natural.distances(columns, predicted)[:30], alone)
    assert natural.distances(columns[:0], predicted[:0]).shape == (0,)


def test_the_largest_float32_have_finite_distances(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    huge = columns.copy()
    huge[::2, 1], huge[1::2, 3] = np.finfo(np.float32).max, -np.finfo(np.float32).max
    for fitted in (columns, huge):
        distances = NaturalColumns.fit(fitted, predicted, CLASSES).distances(huge, predicted)
        assert np.isfinite(distances).all()
        assert (distances >= 0).all()
    assert NaturalColumns.fit(columns, predicted, CLASSES).distances(huge, predicted).min() > 1e30


@pytest.mark.parametrize("count", [1, 3])
def test_few_natural_images_suffice(rng: np.random.Generator, count: int) -> None:
    columns, predicted = natural_rows(rng, count)
    assert np.isfinite(NaturalColumns.fit(columns, predicted, CLASSES).distances(columns + 1, predicted)).all()


def test_columns_are_restored_from_their_state(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    natural = NaturalColumns.fit(columns, predicted, CLASSES)
    again = NaturalColumns.from_state(natural.state(), CLASSES, COLUMNS)
    assert np.array_equal(again.distances(columns, predicted), natural.distances(columns, predicted))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {name: array for name, array in state.items() if name != "scale"},
        lambda state: state | {"code": np.zeros(2)},
        lambda state: state | {"scale": np.zeros(COLUMNS)},
        lambda state: state | {"scale": -state["scale"]},
        lambda state: state | {"scale": state["scale"].astype(np.float32)},
        lambda state: state | {"scale": state["scale"][:-1]},
        lambda state: state | {"centre": np.full(COLUMNS, np.inf)},
        lambda state: state | {"means": state["means"][:, :-1]},
        lambda state: state | {"means": np.repeat(state["means"], 2, axis=0)},
        lambda state: state | {"means": state["means"][..., :-1], "whitening": state["whitening"][:, :-1, :-1]},
        lambda state: state | {"means": np.repeat(state["means"], 2, axis=0),
                               "whitening": np.repeat(state["whitening"], 2, axis=0)},
        lambda state: state | {"means": state["means"] + 1e60},
        lambda state: state | {"whitening": state["whitening"] * np.nan},
    ],
)  # fmt: skip
def test_damaged_columns_are_refused(rng: np.random.Generator, damage: Callable[[State], State]) -> None:
    state = NaturalColumns.fit(*natural_rows(rng), CLASSES).state()
    with pytest.raises(InputError, match="expected"):
        NaturalColumns.from_state(damage(state), CLASSES, COLUMNS)
