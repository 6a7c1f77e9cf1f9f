"""Scores that need no attacks, against their definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_ood import detector as pytorch_ood
from scipy.special import logsumexp, softmax

from detector.base.detector import build_detector
from detector.detectors.energy import Energy
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.transport_cost import TransportCost
from models.errors import InputError
from models.features import Features
from tests.detector.conftest import planted


def test_max_softmax_is_one_minus_the_largest_probability(rng: np.random.Generator) -> None:
    features = planted(rng, 50)
    expected = 1 - softmax(features.logits.astype(np.float64), axis=1).max(axis=1)
    assert np.allclose(MaxSoftmax().fit(features).score(features), expected, atol=1e-12)


def test_max_softmax_distinguishes_confident_predictions() -> None:
    """Where 1 − p rounds to zero in float64."""
    logits = np.array([[100, 0, 0, 0], [110, 0, 0, 0], [300, 0, 0, 0]], dtype=np.float32)
    features = Features(logits, np.zeros((3, 2), dtype=np.float32))
    scores = MaxSoftmax().fit(features).score(features)
    assert (np.diff(scores) < 0).all()
    assert scores[-1] > 0


def test_energy_is_minus_logsumexp(rng: np.random.Generator) -> None:
    features = planted(rng, 50)
    expected = -logsumexp(features.logits.astype(np.float64), axis=1)
    assert np.allclose(Energy().fit(features).score(features), expected, atol=1e-12)
    huge = Features(np.full((1, 4), 3e38, dtype=np.float32), features.statistics[:1])
    assert np.isfinite(Energy().fit(features).score(huge)).all()


def test_scores_of_logits_are_pytorch_oods(rng: np.random.Generator) -> None:
    features = planted(rng, 50)
    logits = torch.from_numpy(features.logits)
    energy = pytorch_ood.EnergyBased(None).predict_logits(logits).numpy()
    softmax_score = pytorch_ood.MaxSoftmax(None).predict_logits(logits).numpy()
    assert np.allclose(Energy().fit(features).score(features), energy, atol=1e-4)
    assert np.allclose(MaxSoftmax().fit(features).score(features), 1 + softmax_score, atol=1e-6)


def path(costs: np.ndarray, predicted: int = 0, classes: int = 3) -> Features:
    """Features of two blocks whose mean squares are as given (N, 2)."""
    logits = np.zeros((len(costs), classes), dtype=np.float32)
    logits[:, predicted] = 1
    statistics = np.zeros((len(costs), 4), dtype=np.float32)
    statistics[:, [0, 2]] = costs
    return Features(logits, statistics)


def test_transport_cost_is_one_at_the_edges_of_the_band() -> None:
    # Log costs 0, 1, …, 100, so quantiles 5 % and 95 % are 5 and 95.
    logs = np.arange(101.0) / 10
    natural = path(np.stack([np.exp(logs), np.zeros(101)], axis=1))
    detector = TransportCost().fit(natural)
    queries = path(np.stack([np.exp([5.0, 0.5, 9.5, 14.0, -4.0]), np.zeros(5)], axis=1))
    assert np.allclose(detector.score(queries), [0, 1, 1, 2, 2], atol=1e-5)
    votes = detector.score_components(queries).components
    assert np.allclose(votes["too_high"], [0, -1, 1, 2, -2], atol=1e-5)
    assert np.allclose(votes["too_low"], [0, 1, -1, -2, 2], atol=1e-5)


def test_transport_cost_is_compared_within_the_predicted_class(rng: np.random.Generator) -> None:
    costs = rng.uniform(0.9, 1.1, size=(40, 2))
    low, high = path(costs, predicted=0), path(100 * costs, predicted=1)
    natural = Features.concatenated([low, high])
    detector = TransportCost().fit(natural)
    assert np.median(detector.score(high)) < 1
    misplaced = path(100 * costs, predicted=0)
    assert detector.score(misplaced).min() > 10
    # Class 2 is never predicted, so it uses all images, among which these costs are normal.
    assert detector.score(path(100 * costs, predicted=2)).max() < 2


def test_block_sizes_make_it_the_cost_itself(rng: np.random.Generator) -> None:
    squares = rng.uniform(0.5, 2, size=(60, 2))
    weighted = TransportCost(block_sizes=(300, 20)).fit(path(squares))
    assert np.allclose(
        weighted.score(path(squares)), TransportCost().fit(path(squares * [300, 20])).score(path(squares * [300, 20])),
        atol=1e-4,
    )  # fmt: skip
    # One size for all blocks is a constant factor, which no quantile notices.
    alike = TransportCost(block_sizes=(64, 64)).fit(path(squares)).score(path(squares))
    assert np.allclose(alike, TransportCost().fit(path(squares)).score(path(squares)))


def test_the_rule_of_the_thesis_is_two_global_quantiles(rng: np.random.Generator) -> None:
    squares = rng.lognormal(0, 1, (300, 2)).astype(np.float32)
    natural = path(squares, predicted=1)
    detector = TransportCost(block_sizes=(300, 20), rule="thesis").fit(natural)
    cost = np.log(squares.astype(np.float64) @ [300, 20])
    low, high = np.quantile(cost, (0.02, 0.98))
    assert np.array_equal(detector.score(natural) > 1, (cost < low) | (cost > high))
    assert np.array_equal(detector.bands_[0], detector.bands_[1])  # of all classes alike
    with pytest.raises(InputError, match="quantile"):
        build_detector("transport_cost", {"rule": "thesis", "quantile": 0.1})


def test_further_cosines_are_not_part_of_the_cost(rng: np.random.Generator) -> None:
    features = planted(rng, 50, columns=6)
    changed = features.statistics.copy()
    changed[:, [1, 2, 4, 5]] = rng.uniform(-1, 1, size=(50, 4))
    detector = TransportCost(columns_per_block=3).fit(features)
    assert np.array_equal(detector.score(features), detector.score(Features(features.logits, changed)))


def test_equal_costs_and_zero_paths_give_finite_scores() -> None:
    detector = TransportCost().fit(path(np.ones((30, 2))))
    scores = detector.score(path(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])))
    assert np.isfinite(scores).all()
    assert scores[0] < 1 < min(scores[1:])


@pytest.mark.parametrize(
    "parameters",
    [
        {"block_sizes": [3]},
        {"block_sizes": [3, 0, 1]},
        {"block_sizes": [1.5, 1, 1]},
        {"columns_per_block": 4},
        {"columns_per_block": 0},
        {"quantile": 0.5},
        {"quantile": 0.0},
        {"minimum_per_class": 0},
    ],
)
def test_options_that_cannot_be_used_are_refused(rng: np.random.Generator, parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        TransportCost(**parameters).fit(planted(rng, 30, columns=6))


@pytest.mark.parametrize("row", [[1.0, 0.0, 2.0], [0.0, np.nan, 1.0]])
def test_damaged_quantiles_are_refused(rng: np.random.Generator, row: list[float]) -> None:
    detector = TransportCost().fit(planted(rng, 30))
    state = {name: array.copy() for name, array in detector.state().items()}
    state["bands"][1] = row
    with pytest.raises(InputError):
        TransportCost.from_state(detector.parameters(), state)
