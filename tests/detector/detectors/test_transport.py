"""The Transport detector: its classifiers, and the combination of their votes."""

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from detector.detectors.transport import Transport
from models.errors import InputError
from models.features import Features
from tests.detector.conftest import planted

pytestmark = pytest.mark.slow


def predicted_as(features: Features, classes: np.ndarray) -> Features:
    """The same features with logits that predict these classes."""
    logits = np.zeros_like(features.logits)
    logits[np.arange(len(logits)), classes] = 1
    return Features(logits, features.statistics)


def two_sets(rng: np.random.Generator) -> tuple[Features, Features]:
    """Class 0 has many images of both kinds, class 1 few adversarial ones, class 2 few natural ones, class 3 none."""
    natural = predicted_as(planted(rng, 130), np.repeat([0, 1, 2], [60, 60, 10]))
    adversarial = predicted_as(planted(rng, 130, shift=0.3), np.repeat([0, 1, 2], [60, 10, 60]))
    return natural, adversarial


def training_set(natural: Features, adversarial: Features, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Columns and labels of both sets, or of their images predicted as class k."""
    columns = np.concatenate([natural.statistics, adversarial.statistics])
    labels = np.repeat([0, 1], [len(natural.statistics), len(adversarial.statistics)])
    if k is None:
        return columns, labels
    mine = np.concatenate([natural.predicted, adversarial.predicted]) == k
    return columns[mine], labels[mine]


def test_votes_are_scikit_learns_forests(rng: np.random.Generator, seed: int) -> None:
    natural, adversarial = two_sets(rng)
    detector = Transport(seed=seed, minimum_per_class=20).fit(natural, adversarial)
    all_images = RandomForestClassifier(100, random_state=seed).fit(*training_set(natural, adversarial))
    class_0 = RandomForestClassifier(100, random_state=seed).fit(*training_set(natural, adversarial, 0))
    fresh = predicted_as(planted(rng, 80, shift=0.15), np.repeat([0, 1, 2, 3], 20))
    votes = detector.score_components(fresh).components
    all_class = all_images.predict_proba(fresh.statistics)[:, 1]
    assert np.array_equal(votes["all_class"], all_class)
    # Classes without enough images of both kinds use the all-class forest.
    expected = np.where(fresh.predicted == 0, class_0.predict_proba(fresh.statistics)[:, 1], all_class)
    assert np.array_equal(votes["predicted_class"], expected)


@pytest.mark.parametrize("per_block", [2, 5])
def test_norms_only_are_the_first_columns_of_the_blocks(rng: np.random.Generator, seed: int, per_block: int) -> None:
    natural, adversarial = (
        Features(each.logits, rng.normal(size=(130, 2 * per_block)).astype(np.float32)) for each in two_sets(rng)
    )
    detector = Transport(seed=seed, norms_only=True, columns_per_block=per_block, num_trees=5).fit(natural, adversarial)
    norms = [Features(each.logits, each.statistics[:, ::per_block]) for each in (natural, adversarial)]
    expected = Transport(seed=seed, num_trees=5).fit(*norms).score(norms[0])
    assert np.array_equal(detector.score(natural), expected)
    restored = Transport.from_state(detector.parameters(), detector.state())
    assert np.array_equal(restored.score(natural), expected)


def test_score_of_one_half_means_at_least_one_classifier(rng: np.random.Generator) -> None:
    natural, adversarial = two_sets(rng)
    detector = Transport(num_trees=11, minimum_per_class=5).fit(natural, adversarial)
    fresh = planted(rng, 300, shift=0.15)
    votes = detector.score_components(fresh).components
    either = (votes["all_class"] >= 0.5) | (votes["predicted_class"] >= 0.5)
    assert 0 < either.sum() < 300
    assert np.array_equal(detector.score(fresh) >= 0.5, either)


@pytest.mark.parametrize(("minimum", "classifiers"), [(10, 4), (20, 2), (61, 1)])
def test_minimum_per_class_is_of_both_kinds(rng: np.random.Generator, minimum: int, classifiers: int) -> None:
    detector = Transport(num_trees=3, minimum_per_class=minimum).fit(*two_sets(rng))
    assert len(detector.conditional_.classifiers) == classifiers


def test_logistic_regression_equals_scikit_learn(rng: np.random.Generator) -> None:
    natural, adversarial = two_sets(rng)
    detector = Transport(classifier="logistic_regression", minimum_per_class=20).fit(natural, adversarial)
    fresh = predicted_as(planted(rng, 30, shift=0.15), np.zeros(30, dtype=int))
    votes = detector.score_components(fresh).components
    for vote, k in (("all_class", None), ("predicted_class", 0)):
        columns, labels = training_set(natural, adversarial, k)
        reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        reference.fit(columns.astype(np.float64), labels)
        expected = reference.predict_proba(fresh.statistics.astype(np.float64))[:, 1]
        assert np.allclose(votes[vote], expected, rtol=0, atol=1e-12)


def test_svm_equals_scikit_learn(rng: np.random.Generator, seed: int) -> None:
    natural, adversarial = two_sets(rng)
    detector = Transport(classifier="svm", minimum_per_class=20, seed=seed).fit(natural, adversarial)
    fresh = predicted_as(planted(rng, 30, shift=0.15), np.zeros(30, dtype=int))
    votes = detector.score_components(fresh).components
    for vote, k in (("all_class", None), ("predicted_class", 0)):
        columns, labels = training_set(natural, adversarial, k)
        machine = make_pipeline(StandardScaler(), SVC(gamma=1 / columns.shape[1]))
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        reference = CalibratedClassifierCV(machine, ensemble=False, cv=folds).fit(columns.astype(np.float64), labels)
        expected = reference.predict_proba(fresh.statistics.astype(np.float64))[:, 1]
        assert np.allclose(votes[vote], expected, rtol=0, atol=1e-9)


def test_seed_and_jobs(rng: np.random.Generator) -> None:
    natural, adversarial = two_sets(rng)
    fresh = planted(rng, 60, shift=0.15)
    one, same, other = (
        Transport(num_trees=10, seed=seed, n_jobs=n_jobs).fit(natural, adversarial).score(fresh)
        for seed, n_jobs in ((1, None), (1, 2), (2, None))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "parameters",
    [
        {"classifier": "naive_bayes"},
        {"num_trees": 0},
        {"num_trees": 2.5},
        {"minimum_per_class": 0},
        {"classifier": "svm", "minimum_per_class": 2},
        {"seed": -1},
        {"n_jobs": 0},
    ],
)
def test_options_that_cannot_be_used_are_refused(rng: np.random.Generator, parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=list(parameters)[-1]):
        Transport(**parameters).fit(*two_sets(rng))


def test_attacks_are_needed(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="needs none, such as transport_cost"):
        Transport().fit(planted(rng, 30))


def test_an_svm_states_the_required_number_of_images(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="at least 5"):
        Transport(classifier="svm").fit(planted(rng, 30), planted(rng, 3))


@pytest.mark.parametrize("own", [[0, 2, 1, 0], [1, 0, 0, 0], [1, 1, 2, 0], [-1, 1, 2, 0], [1, 2, 3, 0]])
def test_a_state_that_maps_classes_wrongly_is_refused(rng: np.random.Generator, own: list[int]) -> None:
    natural = predicted_as(planted(rng, 60), np.repeat([0, 1], 30))
    detector = Transport(num_trees=3).fit(natural, natural)
    state = detector.state() | {"own_classifier": np.array(own)}
    with pytest.raises(InputError, match="belong to one class"):
        Transport.from_state(detector.parameters(), state)


def test_a_state_with_another_number_of_trees_is_refused(rng: np.random.Generator) -> None:
    detector = Transport(num_trees=3).fit(*two_sets(rng))
    with pytest.raises(InputError, match="4 trees"):
        Transport.from_state(detector.parameters() | {"num_trees": 4}, detector.state())


@pytest.mark.parametrize(
    ("classifier", "name", "value"),
    [
        ("logistic_regression", "scale", 0.0),
        ("logistic_regression", "weight", np.nan),
        ("svm", "scale", -1.0),
        ("svm", "starts", 1),
        ("svm", "dual", np.inf),
    ],
)
def test_damaged_arrays_of_other_classifiers_are_refused(
    rng: np.random.Generator, classifier: Any, name: str, value: float
) -> None:
    detector = Transport(classifier=classifier).fit(*two_sets(rng))
    state = {key: array.copy() for key, array in detector.state().items()}
    state[name].flat[0] = value
    with pytest.raises(InputError):
        Transport.from_state(detector.parameters(), state)
