"""Conformance suite of detectors, run on every file in detector/detectors."""

import ast
import copy
import inspect
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from detector.base.detector import Detector, build_detector
from detector.classifiers import boosting
from models.errors import InputError, NotFittedError
from models.features import Features
from models.registry import DETECTORS
from tests.conformance.made_up import CLASSES, features_of
from tests.conftest import SEED

pytestmark = pytest.mark.slow

FITTING = (SEED, 1)  # seed of the images that `fitted` is fitted on

# Small values keep the suite fast; detectors with classifiers get few trees.
QUICK: dict[str, dict[str, Any]] = {"knn": {"k": 10}, "lid": {"k": 10}, "kernel_density": {"passes": 10}}


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Every detector with a forest, with its default classifier, and without classifiers where it can."""
    found = []
    for name in DETECTORS.names():
        kind, options = DETECTORS.load(name), QUICK.get(name, {})
        default = kind().parameters().get("classifier")
        if default is None:
            found.append((name, options))
            continue
        own = ("none",) if can_do_without_classifiers(kind) else ()
        classifiers = dict.fromkeys(("random_forest", default, *own))
        found += [(name, options | {"num_trees": 10, "classifier": classifier}) for classifier in classifiers]
    return found


def can_do_without_classifiers(kind: type[Detector]) -> bool:
    try:
        build_detector(kind().name, {"classifier": "none"})
    except InputError:
        return False
    return True


@pytest.fixture(autouse=True, scope="module")
def few_boosted_trees() -> Iterator[None]:
    """As few boosting iterations as there are trees in the forests; detectors have no option for them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(boosting._OPTIONS, "max_iter", 10)
        yield


def natural_features(detector: Detector, rng: np.random.Generator, count: int = 90) -> Features:
    return features_of(detector, rng, np.zeros(count, dtype=bool))


def odd_features(detector: Detector, rng: np.random.Generator, count: int = 90) -> Features:
    return features_of(detector, rng, np.ones(count, dtype=bool))


def prepared(detector: Detector, rng: np.random.Generator) -> Detector:
    if detector.needs_reference:
        reference = natural_features(detector, rng)
        detector.prepare(reference, reference.predicted)
    return detector


def fit(detector: Detector, rng: np.random.Generator) -> Detector:
    natural = natural_features(prepared(detector, rng), rng)
    adversarial = odd_features(detector, rng) if detector.needs_adversarial else None
    return detector.fit(natural, adversarial, labels=natural.predicted)


@pytest.fixture(
    scope="module", params=variants(), ids=lambda variant: f"{variant[0]}-{variant[1].get('classifier', '')}"
)
def variant(request: pytest.FixtureRequest) -> Detector:
    """A detector for copies, which nothing changes."""
    name, options = request.param
    made: Detector = DETECTORS.load(name)(**options)
    return made


@pytest.fixture
def detector(variant: Detector) -> Detector:
    """A fresh detector."""
    return copy.deepcopy(variant)


@pytest.fixture(scope="module")
def fitted_once(variant: Detector) -> Detector:
    """The fitted detector for copies."""
    return fit(copy.deepcopy(variant), np.random.default_rng(FITTING))


@pytest.fixture
def fitted(fitted_once: Detector) -> Detector:
    """A fitted detector."""
    return copy.deepcopy(fitted_once)


@pytest.fixture(scope="module")
def mixed(variant: Detector) -> Features:
    """Features to score: 20 natural and 20 odd images, mixed."""
    rng = np.random.default_rng((SEED, 2))
    return features_of(variant, rng, rng.permutation(np.arange(40) % 2 == 0))


def test_components_are_explained(fitted: Detector, mixed: Features) -> None:
    result, info = fitted.score_components(mixed), fitted.component_info()
    assert list(result.components) == list(info)
    assert all(title and description for title, description in info.values())
    assert set(result.main_components()) <= (set(info) or {None})


def test_name_is_the_files(detector: Detector) -> None:
    assert DETECTORS.load(detector.name) is type(detector)


def test_options_are_keyword_only_with_defaults(detector: Detector) -> None:
    for name, parameter in inspect.signature(type(detector).__init__).parameters.items():
        if name in detector.parameters():
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert parameter.default is not inspect.Parameter.empty


def test_unknown_options_are_refused(detector: Detector) -> None:
    with pytest.raises(TypeError, match="argument"):
        type(detector)(absent=1)


def test_constructor_only_stores(detector: Detector) -> None:
    assert set(vars(detector)) == set(detector.parameters())


def test_repr_is_the_call_that_made_it(detector: Detector) -> None:
    call = ast.parse(repr(detector), mode="eval").body
    assert isinstance(call, ast.Call)
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert given == detector.parameters()


def test_parameters_round_trip_through_json(detector: Detector) -> None:
    twin = type(detector)(**json.loads(json.dumps(detector.parameters(), allow_nan=False)))
    assert twin.parameters() == detector.parameters()


def test_fit_returns_the_detector_and_leaves_the_options(detector: Detector, rng: np.random.Generator) -> None:
    before = detector.parameters()
    assert fit(detector, rng) is detector
    assert detector.parameters() == before
    assert all(name.endswith("_") for name in set(vars(detector)) - set(before))


def test_before_fit_every_answer_is_refused(detector: Detector, mixed: Features) -> None:
    for ask in (lambda: detector.score(mixed), lambda: detector.score_components(mixed), detector.state):
        with pytest.raises(NotFittedError, match="fit"):
            ask()


def test_a_fit_that_fails_leaves_it_unfitted(detector: Detector, rng: np.random.Generator, mixed: Features) -> None:
    natural = natural_features(prepared(detector, rng), rng)
    natural.statistics[5, 2] = np.nan
    with pytest.raises(InputError, match="row 5"):
        detector.fit(natural, odd_features(detector, rng))
    with pytest.raises(NotFittedError):
        detector.score(mixed)


def test_scores_are_one_finite_float64_per_image(fitted: Detector, mixed: Features) -> None:
    score = fitted.score(mixed)
    assert score.shape == (40,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    for vote in fitted.score_components(mixed).components.values():
        assert vote.shape == (40,)
        assert np.isfinite(vote).all()


def test_higher_is_more_anomalous(fitted: Detector, rng: np.random.Generator) -> None:
    natural, odd = fitted.score(natural_features(fitted, rng)), fitted.score(odd_features(fitted, rng))
    assert np.mean(natural[:, None] < odd[None, :]) > 0.95


def test_a_batch_of_one_scores_as_in_a_batch_of_many(fitted: Detector, mixed: Features) -> None:
    together = fitted.score(mixed)
    alone = [fitted.score(mixed.take(np.array([row])))[0] for row in range(40)]
    assert np.array_equal(together, alone)


def test_order_does_not_matter(fitted: Detector, rng: np.random.Generator, mixed: Features) -> None:
    order = rng.permutation(40)
    assert np.array_equal(fitted.score(mixed.take(order)), fitted.score(mixed)[order])


def test_no_images(fitted: Detector, mixed: Features) -> None:
    assert fitted.score(mixed.take(np.arange(0))).shape == (0,)


def test_scoring_changes_nothing(fitted: Detector, mixed: Features) -> None:
    copies = mixed.take(np.arange(40))
    first = fitted.score(mixed)
    assert np.array_equal(first, fitted.score(mixed))
    assert all(np.array_equal(mixed.requested[name], copies.requested[name]) for name in copies.requested)
    assert np.array_equal(mixed.logits, copies.logits)
    assert np.array_equal(mixed.statistics, copies.statistics)


def test_fitting_twice_is_fitting_once(fitted: Detector, rng: np.random.Generator, mixed: Features) -> None:
    first = fitted.score(mixed)
    fit(fitted, rng)
    assert np.array_equal(first, fit(fitted, np.random.default_rng(FITTING)).score(mixed))


def test_state_round_trip(fitted: Detector, mixed: Features) -> None:
    state = {name: array.copy() for name, array in fitted.state().items()}
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fi" for array in state.values())
    again = type(fitted).from_state(json.loads(json.dumps(fitted.parameters())), state)
    assert np.array_equal(again.score(mixed), fitted.score(mixed))
    assert again.state().keys() == state.keys()
    for name, vote in fitted.score_components(mixed).components.items():
        assert np.array_equal(again.score_components(mixed).components[name], vote)


def test_state_of_another_kind_is_refused(fitted: Detector) -> None:
    state = fitted.state()
    parameters = fitted.parameters()
    damaged: list[dict[str, Any]] = [state | {"code": np.zeros(3)}]
    for name, array in state.items():
        damaged.append({other: value for other, value in state.items() if other != name})
        damaged.append(state | {name: array[None]})
        damaged.append(state | {name: array.astype(np.float16)})
        if array.dtype.kind == "f":
            spoilt = array.copy()
            spoilt.flat[0] = np.nan
            damaged.append(state | {name: spoilt})
    for bad in damaged:
        with pytest.raises(InputError):
            type(fitted).from_state(parameters, bad)
    with pytest.raises(InputError, match="parameters"):
        type(fitted).from_state(parameters | {"unheard_of": 1}, state)


def test_parameters_of_any_json_are_accepted_or_refused(fitted: Detector, mixed: Features) -> None:
    """A manifest may contain any JSON: it is refused by an InputError, or the detector can score."""
    state = fitted.state()
    odd = (None, True, 0, 5, -1, 10**400, 1.5, 1e300, "abc", "", [], {}, [1.5], [True], [10**400] * 4, [[1]], {"a": 1})
    for name in fitted.parameters():
        for value in odd:
            try:
                made = type(fitted).from_state(fitted.parameters() | {name: value}, state)
            except InputError:
                continue
            assert np.isfinite(made.score(mixed)).all(), (name, value)


@pytest.mark.parametrize("what", ["logits", "statistics"])
def test_features_of_another_network_are_refused(fitted: Detector, mixed: Features, what: str) -> None:
    array = getattr(mixed, what)
    for bad in (array[:, :-1], np.hstack([array, array]), array[:-1], array.astype(np.float64), array[0]):
        with pytest.raises(InputError, match="expected"):
            fitted.score(mixed._replace(**{what: bad}))
    spoilt = array.copy()
    spoilt[7, 0] = np.inf
    with pytest.raises(InputError, match="row 7"):
        fitted.score(mixed._replace(**{what: spoilt}))


def test_requests_of_another_network_are_refused(fitted: Detector, mixed: Features) -> None:
    for name, array in mixed.requested.items():
        others = {other: values for other, values in mixed.requested.items() if other != name}
        with pytest.raises(InputError, match="expected given features with the request"):
            fitted.score(mixed._replace(requested=others))
        for bad in (array[..., :-1], np.concatenate([array, array], axis=-1), array[:-1], array.astype(np.float64)):
            with pytest.raises(InputError, match="expected"):
                fitted.score(mixed._replace(requested=others | {name: bad}))
        spoilt = array.copy()
        spoilt[7].flat[0] = np.nan
        with pytest.raises(InputError, match="row 7"):
            fitted.score(mixed._replace(requested=others | {name: spoilt}))


def test_feature_requests_have_unique_names(detector: Detector, rng: np.random.Generator) -> None:
    for stage in (detector, prepared(detector, rng)):
        names = [feature_request.name for feature_request in stage.feature_requests()]
        assert len(set(names)) == len(names)


def test_reference_images_come_first(detector: Detector, rng: np.random.Generator) -> None:
    natural, odd = natural_features(detector, rng), odd_features(detector, rng)
    if not detector.needs_reference:
        detector.prepare(natural)
        assert detector.fit(natural, odd) is detector
        return
    with pytest.raises(NotFittedError, match="prepare"):
        detector.fit(natural, odd)
    assert detector.prepare(natural) is detector
    with pytest.raises(NotFittedError, match="fit"):
        detector.score(natural)


def test_preparing_again_asks_for_a_new_fit(fitted: Detector, rng: np.random.Generator, mixed: Features) -> None:
    fitted.prepare(natural_features(fitted, rng))
    with pytest.raises(NotFittedError, match="fit"):
        fitted.score(mixed)


def test_reference_images_that_cannot_be_used_are_refused(detector: Detector, rng: np.random.Generator) -> None:
    natural = natural_features(detector, rng)
    spoilt = natural.take(np.arange(90))
    spoilt.logits[3, 0] = np.inf
    for reference, labels in (
        (natural.take(np.arange(0)), None),
        (spoilt, None),
        (natural, natural.predicted + CLASSES),
        (natural, natural.predicted[:-1]),
    ):
        with pytest.raises(InputError):
            detector.prepare(reference, labels)


def test_needs_adversarial_is_known_before_fit(detector: Detector) -> None:
    assert type(detector).needs_adversarial == type(detector)().needs_adversarial
    assert isinstance(detector.needs_adversarial, bool)


def test_sets_that_cannot_be_fitted_on_are_refused(detector: Detector, rng: np.random.Generator) -> None:
    prepared(detector, rng)
    natural, odd = natural_features(detector, rng), odd_features(detector, rng)
    narrower = odd._replace(statistics=odd.statistics[:, :-2])
    nothing = np.arange(0)
    for arguments in (
        (natural.take(nothing), odd),
        (natural, odd.take(nothing)),
        (natural, narrower),
        (natural, odd, natural.predicted[:-1]),
        (natural, odd, natural.predicted + CLASSES),
        (natural, odd, natural.predicted - CLASSES),
        (natural, odd, natural.predicted.astype(float)),
    ):
        with pytest.raises(InputError, match="expected"):
            detector.fit(*arguments)
