"""What is learnt from natural images alone: distances to them, and how rare a number is among theirs."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from detector.density.natural import NaturalColumns, Surprise
from models.errors import InputError

CLASSES, COLUMNS = 4, 5

State = dict[str, np.ndarray]


def natural_rows(rng: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(columns float32 of very different sizes that go together, predicted classes): no image is of the last class."""
    predicted = np.arange(count) % (CLASSES - 1)
    means = rng.normal(size=(CLASSES, COLUMNS))
    mixing = np.eye(COLUMNS) + 0.3 * rng.normal(size=(COLUMNS, COLUMNS))
    rows = (means[predicted] + rng.normal(size=(count, COLUMNS)) @ mixing) * 10.0 ** np.arange(-2, COLUMNS - 2) + 3
    return rows.astype(np.float32), predicted


def around_own_class(columns: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class means, rows around the mean of their class), in float64; the mean of all for a class without rows."""
    rows = columns.astype(np.float64)
    means = np.stack([rows[predicted == k if (predicted == k).any() else slice(None)].mean(0) for k in range(CLASSES)])
    return means, rows - means[predicted]


def test_distances_are_scikit_learns_around_the_own_class(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    means, centred = around_own_class(columns, predicted)
    reference = EmpiricalCovariance(assume_centered=True).fit(centred)
    fresh = columns[:50] + 5 * rng.normal(size=(50, COLUMNS)).astype(np.float32)
    asked = rng.integers(CLASSES - 1, size=50)
    found = NaturalColumns.fit(columns, predicted, CLASSES).distances(fresh, asked)
    np.testing.assert_allclose(found, reference.mahalanobis(fresh.astype(np.float64) - means[asked]), rtol=1e-5)


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


def test_the_largest_numbers_there_are_have_finite_distances(rng: np.random.Generator) -> None:
    columns, predicted = natural_rows(rng)
    huge = columns.copy()
    huge[::2, 1], huge[1::2, 3] = np.finfo(np.float32).max, -np.finfo(np.float32).max
    for learnt in (columns, huge):
        distances = NaturalColumns.fit(learnt, predicted, CLASSES).distances(huge, predicted)
        assert np.isfinite(distances).all()
        assert (distances >= 0).all()
    assert NaturalColumns.fit(columns, predicted, CLASSES).distances(huge, predicted).min() > 1e30


@pytest.mark.parametrize("count", [1, 3])
def test_few_natural_images_are_enough_to_learn_from(rng: np.random.Generator, count: int) -> None:
    columns, predicted = natural_rows(rng, count)
    assert np.isfinite(NaturalColumns.fit(columns, predicted, CLASSES).distances(columns + 1, predicted)).all()


def test_columns_come_back_from_their_state(rng: np.random.Generator) -> None:
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


# --- surprise


def natural_numbers(rng: np.random.Generator, count: int = 1901) -> np.ndarray:
    """Numbers with a long tail, of which hundredths are whole images."""
    return np.exp(rng.normal(size=count)) - 3


def test_surprise_is_the_natural_share_up_to_the_tail(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    ordered = np.sort(numbers)[: int(0.95 * len(numbers))]
    share = [(numbers >= number).mean() for number in ordered]
    np.testing.assert_allclose(10 ** -Surprise.fit(numbers)(ordered), share, atol=0.006)


def test_surprise_is_an_exponential_tail_beyond(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    edge = np.quantile(numbers, 0.95)
    excess = (numbers[numbers > edge] - edge).mean()
    further = np.array([0.0, 0.1, 1, 30, 1000])
    expected = np.log10(20) + further / excess * np.log10(np.e)
    np.testing.assert_allclose(Surprise.fit(numbers)(edge + further), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [8, 20, 150])
def test_one_number_just_over_the_quantile_makes_no_wonder_of_larger_ones(rng: np.random.Generator, count: int) -> None:
    numbers = np.sort(rng.exponential(size=count))
    numbers[-max(1, count // 20) :] = np.quantile(numbers[: -max(1, count // 20)], 1.0) + 1e-6
    surprise = Surprise.fit(numbers)
    edge, middle = np.quantile(numbers, 0.95), np.median(numbers)
    # as far again as from the median to the quantile: as rare again, if the tail is an exponential's
    further = edge + np.array([1.0, 2.0, 10.0]) * (edge - middle)
    np.testing.assert_allclose(surprise(further), np.log10(20) + np.array([1, 2, 10]), rtol=1e-4)


def test_a_hundredth_of_the_images_surprises_by_two(rng: np.random.Generator) -> None:
    surprise = Surprise.fit(rng.exponential(size=50_000))
    assert (surprise(rng.exponential(size=50_000)) >= 2).mean() == pytest.approx(0.01, abs=0.004)


def test_surprise_rises_with_the_number_and_has_no_end(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    surprise = Surprise.fit(numbers)
    everywhere = np.sort(np.concatenate([numbers, np.linspace(-9, 1e5, 3000), [-1e300]]))
    assert (np.diff(surprise(everywhere)) >= 0).all()
    assert (np.diff(surprise(np.sort(numbers))) > 0).all()
    assert (np.diff(surprise(np.logspace(2, 8, 50))) > 0).all()
    assert surprise(np.array([-1e300]))[0] == 0
    assert np.isfinite(surprise(np.array([1e300, np.finfo(np.float64).max]))).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.0, 1e30])
def test_natural_numbers_that_are_all_the_same(constant: float) -> None:
    surprise = Surprise.fit(np.full(50, constant))
    less, same, more = surprise(np.array([constant - abs(constant) - 1, constant, constant + abs(constant) + 1]))
    assert less == 0
    assert same == 0  # all natural numbers are as large
    assert more > 1000


@pytest.mark.parametrize("count", [1, 2, 20])
def test_few_natural_numbers_are_enough(rng: np.random.Generator, count: int) -> None:
    numbers = natural_numbers(rng, count)
    surprises = Surprise.fit(numbers)(np.sort(np.concatenate([numbers, numbers + 1])))
    assert np.isfinite(surprises).all()
    assert (np.diff(surprises) >= 0).all()


def test_a_surprise_comes_back_from_its_state(rng: np.random.Generator) -> None:
    surprise = Surprise.fit(natural_numbers(rng))
    numbers = natural_numbers(rng) * 3
    assert np.array_equal(Surprise.from_state(surprise.state())(numbers), surprise(numbers))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {"knots": state["knots"]},
        lambda state: state | {"tail": np.ones(1)},
        lambda state: state | {"knots": state["knots"][::-1]},
        lambda state: state | {"knots": state["knots"][:-1]},
        lambda state: state | {"knots": state["knots"].astype(np.float32)},
        lambda state: state | {"knots": np.append(state["knots"][:-1], np.nan)},
        lambda state: state | {"excess": np.zeros(1)},
        lambda state: state | {"excess": -state["excess"]},
        lambda state: state | {"excess": np.array([np.inf])},
        lambda state: state | {"excess": np.ones(2)},
        lambda state: state | {"excess": np.ones(1, dtype=np.int64)},
    ],
)
def test_a_damaged_surprise_is_refused(rng: np.random.Generator, damage: Callable[[State], State]) -> None:
    state = Surprise.fit(natural_numbers(rng)).state()
    with pytest.raises(InputError, match="expected"):
        Surprise.from_state(damage(state))
