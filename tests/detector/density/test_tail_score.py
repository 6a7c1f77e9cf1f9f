"""How rare a number is among natural images."""

from collections.abc import Callable

import numpy as np
import pytest

from detector.density.tail_score import TailScore, TailScores
from models.errors import InputError

State = dict[str, np.ndarray]


def natural_numbers(rng: np.random.Generator, count: int = 1901) -> np.ndarray:
    """Numbers with a long tail, of which hundredths are images."""
    return np.exp(rng.normal(size=count)) - 3


def test_the_score_is_the_natural_share_up_to_the_tail(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    ordered = np.sort(numbers)[: int(0.95 * len(numbers))]
    share = [(numbers >= number).mean() for number in ordered]
    np.testing.assert_allclose(10 ** -TailScore.fit(numbers)(ordered), share, atol=0.006)


def test_the_score_is_an_exponential_tail_beyond(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    edge = np.quantile(numbers, 0.95)
    excess = (numbers[numbers > edge] - edge).mean()
    further = np.array([0.0, 0.1, 1, 30, 1000])
    expected = np.log10(20) + further / excess * np.log10(np.e)
    np.testing.assert_allclose(TailScore.fit(numbers)(edge + further), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [8, 20, 150])
def test_a_number_just_beyond_the_quantile_does_not_inflate_larger_ones(rng: np.random.Generator, count: int) -> None:
    numbers = np.sort(rng.exponential(size=count))
    numbers[-max(1, count // 20) :] = np.quantile(numbers[: -max(1, count // 20)], 1.0) + 1e-6
    score = TailScore.fit(numbers)
    edge, middle = np.quantile(numbers, 0.95), np.median(numbers)
    # the distance from median to quantile makes a number rarer by the same factor, for an exponential tail
    further = edge + np.array([1.0, 2.0, 10.0]) * (edge - middle)
    np.testing.assert_allclose(score(further), np.log10(20) + np.array([1, 2, 10]), rtol=1e-4)


def test_one_image_in_a_hundred_has_a_score_of_two(rng: np.random.Generator) -> None:
    score = TailScore.fit(rng.exponential(size=50_000))
    assert (score(rng.exponential(size=50_000)) >= 2).mean() == pytest.approx(0.01, abs=0.004)


def test_the_score_rises_with_the_number_without_bound(rng: np.random.Generator) -> None:
    numbers = natural_numbers(rng)
    score = TailScore.fit(numbers)
    everywhere = np.sort(np.concatenate([numbers, np.linspace(-9, 1e5, 3000), [-1e300]]))
    assert (np.diff(score(everywhere)) >= 0).all()
    assert (np.diff(score(np.sort(numbers))) > 0).all()
    assert (np.diff(score(np.logspace(2, 8, 50))) > 0).all()
    assert score(np.array([-1e300]))[0] == 0
    assert np.isfinite(score(np.array([1e300, np.finfo(np.float64).max]))).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.0, 1e30])
def test_equal_natural_numbers(constant: float) -> None:
    score = TailScore.fit(np.full(50, constant))
    less, same, more = score(np.array([constant - abs(constant) - 1, constant, constant + abs(constant) + 1]))
    assert less == 0
    assert same == 0  # all natural numbers are as large
    assert more > 1000


@pytest.mark.parametrize("count", [1, 2, 20])
def test_few_natural_numbers_suffice(rng: np.random.Generator, count: int) -> None:
    numbers = natural_numbers(rng, count)
    scores = TailScore.fit(numbers)(np.sort(np.concatenate([numbers, numbers + 1])))
    assert np.isfinite(scores).all()
    assert (np.diff(scores) >= 0).all()


def test_a_score_is_restored_from_its_state(rng: np.random.Generator) -> None:
    score = TailScore.fit(natural_numbers(rng))
    numbers = natural_numbers(rng) * 3
    assert np.array_equal(TailScore.from_state(score.state())(numbers), score(numbers))


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
def test_damaged_arrays_are_refused(rng: np.random.Generator, damage: Callable[[State], State]) -> None:
    state = TailScore.fit(natural_numbers(rng)).state()
    with pytest.raises(InputError, match="expected"):
        TailScore.from_state(damage(state))


def test_several_tail_scores_at_once(rng: np.random.Generator) -> None:
    scores = [TailScore.fit(scale * natural_numbers(rng)) for scale in (1, 100)] + [TailScore.fit(np.ones(9))]
    numbers = np.stack([3 * scale * natural_numbers(rng) for scale in (1, 100, 1)])
    together = TailScores(scores)(numbers)
    assert np.array_equal(together, [score(row) for score, row in zip(scores, numbers, strict=True)])
