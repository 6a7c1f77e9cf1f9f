"""Detectors composed of components: which components there are, what each detects, rates, and states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.base.composite import CompositeDetector
from detector.calibration import Calibration
from detector.detectors.companion import Companion
from detector.detectors.fusion import Fusion
from detector.detectors.outliers import Outliers
from detector.detectors.path import Path
from detector.detectors.two_part import TwoPart
from detector.detectors.views import Views
from detector.features.path_vectors import CompanionLogits, PathVectors, ViewLogits, ViewStatistics, ViewVectors
from detector.metrics import auroc
from models.errors import InputError
from models.features import Features
from models.images.views import View

pytestmark = pytest.mark.slow

CLASSES, COLUMNS, LAYERS, WIDTH = 3, 6, 2, 4
SHIFT = View(shift=1)
EDGE = -np.log10(0.05)  # the tail score of one natural image in twenty
KINDS: tuple[type[CompositeDetector], ...] = (Path, Views, Fusion)

State = dict[str, np.ndarray]


def made_up(rng: np.random.Generator, count: int, *, path: float = 0, view: float = 0, spread: float = 1) -> Features:
    """Features of natural images, with all features that these detectors request.

    Args:
        path: shift of embeddings and residues in natural standard deviations.
        view: shift of the view's logits towards another class.
        spread: of embeddings and residues around their class's mean; natural ones have 1.
    """
    predicted = rng.integers(CLASSES, size=count)
    means = 3 * np.random.default_rng(5).normal(size=(2, CLASSES, LAYERS, WIDTH))
    logits = rng.normal(size=(count, CLASSES))
    logits[np.arange(count), predicted] += 12
    embeddings, residues = (mean[predicted] + spread * rng.normal(size=(count, LAYERS, WIDTH)) + path for mean in means)
    statistics = 1 + 0.1 * rng.normal(size=(count, COLUMNS))
    view_logits = logits + 0.3 * rng.normal(size=logits.shape)
    view_logits[np.arange(count), (predicted + 1) % CLASSES] += view
    requested = {
        PathVectors("embeddings"): embeddings,
        PathVectors("residues"): residues,
        ViewLogits(SHIFT): view_logits,
        CompanionLogits(): view_logits,
        CompanionLogits(SHIFT): view_logits,
        ViewStatistics(SHIFT): statistics + 0.02 * rng.normal(size=statistics.shape),
        ViewVectors(SHIFT): embeddings + 0.2 * rng.normal(size=embeddings.shape),
    }
    return Features(
        logits.astype(np.float32),
        statistics.astype(np.float32),
        {each.name: values.astype(np.float32) for each, values in requested.items()},
    )


def fitted(
    detector: CompositeDetector, rng: np.random.Generator, *, count: int = 300, attacked: Features | None = None
) -> CompositeDetector:
    """The detector, prepared, and fitted on `count` natural images."""
    return detector.prepare(made_up(rng, 200)).fit(made_up(rng, count), attacked)


def quick(kind: type[CompositeDetector], **options: Any) -> CompositeDetector:
    """A detector with the all-class classifier only."""
    return kind(**{"minimum_per_class": 10_000, "num_trees": 20, **options})


# --- components


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Path, ["path", "logits", "energy"]),
        (Views, ["prediction_disagreement", "logit_shift", "view_energy"]),
        (Fusion, ["path", "logits", "prediction_disagreement", "logit_shift", "view_energy"]),
        (Companion, ["path", "logits", "margin_drop", "joint_energy"]),
        (
            Outliers,
            [
                *("gen", "joint_energy", "nearest_neighbours", "normalised_mahalanobis"),
                *("normalised_relative_mahalanobis", "fdbd", "nci", "core"),
            ],
        ),
    ],
)
def test_detectors_have_their_components(
    rng: np.random.Generator, kind: type[CompositeDetector], expected: list[str]
) -> None:
    detector, images = fitted(kind(classifier="none"), rng), made_up(rng, 9)
    tail_scores = detector.tail_scores(images)
    assert sorted(tail_scores) == sorted(expected)
    weights = {each.name: each.weight for each in detector.components}
    norms = np.linalg.norm([weights[name] * values for name, values in tail_scores.items()], axis=0)
    np.testing.assert_allclose(detector.score(images), norms / detector.scales_[images.predicted])
    for name, share in detector.score_components(images).components.items():
        np.testing.assert_allclose(share, 1 - 10 ** -tail_scores[name])


def test_each_part_has_the_score_of_its_own_detector(rng: np.random.Generator) -> None:
    reference, natural, images = made_up(rng, 200), made_up(rng, 300), made_up(rng, 40, path=1, view=6)
    joined = TwoPart(classifier="none", passes=4).prepare(reference).fit(natural)
    outliers = Outliers(companion=True).prepare(reference).fit(natural)
    np.testing.assert_allclose(joined.scales_[1], np.sqrt(outliers.scales_))
    result, tail_scores = joined.score_components(images), joined.tail_scores(images)
    weights = {each.name: each.weight for each in joined.components}
    for row, (name, components) in enumerate(TwoPart.parts.items()):
        norms = np.linalg.norm([weights[n] * tail_scores[n] for n in components if n in weights], axis=0)
        own = joined.part_tail_scores_[name](norms / joined.scales_[row][images.predicted])
        np.testing.assert_allclose(result.parts[name], own, atol=1e-9)
    assert list(result.parts) == ["attack", "outlier"]
    np.testing.assert_allclose(10**-result.score, 2 / sum(10**part for part in result.parts.values()))
    # The main component belongs to the main part.
    for part, component in zip(result.main_parts(), result.main_components(), strict=True):
        assert component in TwoPart.parts[part or ""]


def test_groups_can_leave_one_part(rng: np.random.Generator) -> None:
    detector = fitted(TwoPart(groups="gen+fdbd", classifier="none"), rng)
    images = made_up(rng, 9)
    result = detector.score_components(images)
    assert detector.part_names() == ("outlier",)
    assert np.array_equal(result.score, result.parts["outlier"])
    assert np.array_equal(TwoPart.from_state(detector.parameters(), detector.state()).score(images), result.score)


def test_classifiers_have_a_larger_weight_and_show_their_probabilities(rng: np.random.Generator) -> None:
    detector = fitted(quick(Path), rng, attacked=made_up(rng, 100, path=2))
    images = made_up(rng, 9)
    tail_scores = detector.tail_scores(images)
    others = sum(tail_scores[name] ** 2 for name in ("path", "logits", "energy"))
    norms = np.sqrt(others + (1.5 * tail_scores["classifier"]) ** 2)
    np.testing.assert_allclose(detector.score(images), norms / detector.scales_[images.predicted])
    assert set(detector.score_components(images).components) == {
        "all_class",
        "predicted_class",
        "path",
        "logits",
        "energy",
    }


def test_components_without_chosen_groups_are_dropped(rng: np.random.Generator) -> None:
    detector = fitted(Fusion(groups="outputs+statistics", classifier="none"), rng)
    images, others = made_up(rng, 9), made_up(rng, 9)
    assert set(detector.tail_scores(images)) == {"path", "prediction_disagreement", "logit_shift"}
    # The score depends on the chosen groups only: the same images with another path have the same score.
    other_path = {
        name: others.requested[name] if "vectors" in name else values for name, values in images.requested.items()
    }
    assert np.array_equal(detector.score(images._replace(requested=other_path)), detector.score(images))
    assert not np.allclose(detector.score(images._replace(statistics=others.statistics)), detector.score(images))


def test_groups_without_a_scored_component_leave_the_classifiers(rng: np.random.Generator) -> None:
    detector = fitted(quick(Fusion, groups="contrasts"), rng, attacked=made_up(rng, 100, path=2))
    assert set(detector.tail_scores(made_up(rng, 3))) == {"classifier"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", ["", "+", "nothing", "all+logits", "logits+", " all", None, ["logits"], 3])
def test_unknown_groups_are_refused(rng: np.random.Generator, kind: type[CompositeDetector], groups: object) -> None:
    with pytest.raises(InputError, match="expected groups to be all, or some of"):
        kind(groups=groups).prepare(made_up(rng, 50))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "groups"), [(Path, "contrasts"), (Views, "view_statistics+view_classes"), (Fusion, "energy")]
)
def test_groups_without_any_score_are_refused(
    rng: np.random.Generator, kind: type[CompositeDetector], groups: str
) -> None:
    with pytest.raises(InputError, match="leave no component for the score"):
        kind(groups=groups, classifier="none").prepare(made_up(rng, 50))


@pytest.mark.parametrize("view", ["", "flop", "shift0", None, 3, ["flip"]])
def test_unknown_views_are_refused(rng: np.random.Generator, view: object) -> None:
    with pytest.raises(InputError, match="expected a view such as"):
        Views(view=view).prepare(made_up(rng, 50))  # type: ignore[arg-type]


# --- detection


@pytest.mark.parametrize(
    ("kind", "odd", "component"),
    [(Path, {"path": 6}, "path"), (Views, {"view": 25}, "prediction_disagreement"), (Fusion, {"path": 6}, "path"),
     (Fusion, {"view": 25}, "prediction_disagreement")],
)  # fmt: skip
def test_natural_images_suffice_to_detect_odd_images(
    rng: np.random.Generator, kind: type[CompositeDetector], odd: dict[str, float], component: str
) -> None:
    detector = fitted(kind(classifier="none"), rng)
    natural, strange = made_up(rng, 300), made_up(rng, 300, **odd)
    assert auroc(detector.score(natural), detector.score(strange)) > 0.95
    assert np.median(detector.tail_scores(strange)[component]) > 2
    assert np.median(detector.tail_scores(natural)[component]) < 1


def test_classifiers_detect_an_attack_that_other_components_miss(rng: np.random.Generator) -> None:
    # These paths are nearer to the class mean than natural ones, so that every other component is smaller.
    natural, attacked, fresh = made_up(rng, 300), *(made_up(rng, 300, spread=0.4) for _ in range(2))
    found = {
        classifier: fitted(quick(Path, classifier=classifier), rng, count=500, attacked=attacked)
        for classifier in ("none", "gradient_boosting")
    }
    separation = {name: auroc(each.score(natural), each.score(fresh)) for name, each in found.items()}
    assert separation["none"] < 0.6
    assert separation["gradient_boosting"] > 0.8


def test_classifiers_do_not_change_the_other_components(rng: np.random.Generator) -> None:
    reference, natural, images = made_up(rng, 200), made_up(rng, 200), made_up(rng, 30, view=5)
    tail_scores = [
        quick(Fusion, classifier=classifier)
        .prepare(reference)
        .fit(natural, made_up(rng, 90, path=1))
        .tail_scores(images)
        for classifier in ("none", "logistic_regression")
    ]
    for name, values in tail_scores[0].items():
        assert np.array_equal(values, tail_scores[1][name])


# --- images behind tail scores


@pytest.mark.parametrize("count", [40, 400])
def test_tail_scores_are_fitted_on_separate_images(rng: np.random.Generator, count: int) -> None:
    # There is nothing to learn: a forest memorises its own images and gives one half to all others.
    detector = fitted(quick(Path, classifier="random_forest"), rng, count=count, attacked=made_up(rng, count))
    rare = detector.tail_scores(made_up(rng, 1000))["classifier"] > EDGE
    assert rare.mean() < 0.5


@pytest.mark.parametrize("count", [24, 40, 79])
def test_few_natural_images_suffice(rng: np.random.Generator, count: int) -> None:
    """Overfitting of the path's many columns does not hide the other components."""
    detector = Fusion(classifier="none").prepare(made_up(rng, 200)).fit(made_up(rng, count))
    natural, odd = detector.score(made_up(rng, 200)), detector.score(made_up(rng, 200, view=25))
    assert np.mean(natural[:, None] < odd[None, :]) > 0.8


# --- the false-positive rate


@pytest.mark.parametrize("options", [{"classifier": "none"}, {"classifier": "logistic_regression"}])
def test_a_calibrated_threshold_realises_its_rate(rng: np.random.Generator, options: dict[str, Any]) -> None:
    for _ in range(3):
        detector = fitted(
            Fusion(minimum_per_class=20, **options), rng, count=200, attacked=made_up(rng, 200, path=0.5, view=1)
        )
        held_out, fresh = made_up(rng, 1500), made_up(rng, 3000)
        maxima = [np.max(list(detector.tail_scores(images).values()), axis=0) for images in (held_out, fresh)]
        for calibrate, test in ((detector.score(held_out), detector.score(fresh)), maxima):
            calibration = Calibration(calibrate, 0.05)
            assert calibration.flags(test).mean() in calibration.expected_realised_rate(len(test), 1 - 1e-6)


# --- state


def without(state: State, *names: str) -> State:
    return {name: array for name, array in state.items() if not name.startswith(names)}


def with_part(state: State, prefix: str, change: Callable[[np.ndarray], np.ndarray]) -> State:
    """The state with the same change to all arrays whose names start with `prefix`."""
    changed = {name: change(array) if name.startswith(prefix) else array for name, array in state.items()}
    assert any(changed[name] is not state[name] for name in state)
    return changed


@pytest.mark.parametrize("array", ["scales", "part.outlier.knots"])
def test_a_damaged_part_is_refused(rng: np.random.Generator, array: str) -> None:
    detector = fitted(TwoPart(classifier="none"), rng, count=60)
    state = detector.state()
    with pytest.raises(InputError, match="expected"):
        TwoPart.from_state(detector.parameters(), state | {array: state[array][:1]})


DAMAGE: dict[str, Callable[[State], State]] = {
    "no scales": lambda state: without(state, "scales"),
    "a class scale of zero": lambda state: with_part(state, "scales", lambda a: a * 0),
    "a negative class scale": lambda state: with_part(state, "scales", lambda a: -a),
    "scales of other classes": lambda state: with_part(state, "scales", lambda a: a[:-1]),
    "an unknown array": lambda state: state | {"widths": np.array([6, 4])},
    "no natural columns": lambda state: without(state, "component.path."),
    "a scale of zero": lambda state: with_part(state, "component.path.scale", lambda a: a * 0),
    "fewer classes": lambda state: with_part(state, "component.path.means", lambda a: a[:, :-1]),
    "no tail score": lambda state: without(state, "tail_score.logit_shift."),
    "a tail score of an unknown component": lambda state: (
        state | {"tail_score.other.knots": state["tail_score.logit_shift.knots"]}
    ),
    "falling knots": lambda state: with_part(state, "tail_score.prediction_disagreement.knots", lambda a: a[::-1]),
    "no tail": lambda state: with_part(state, "tail_score.path.excess", lambda a: a * 0),
    "an unexpected classifier": lambda state: (
        state | {"component.classifier.own_classifier": np.zeros(CLASSES, dtype=np.int64)}
    ),
    "unknown Gaussians": lambda state: state | {"reference.means": np.zeros((1, 1, 1))},
    "no Gaussians": lambda state: without(state, "reference.residues.background"),
    "Gaussians of fewer classes": lambda state: with_part(
        state, "reference.embeddings.classes.means", lambda a: a[:, :-1]
    ),
    "a background of two classes": lambda state: with_part(
        state, "reference.embeddings.background.means", lambda a: np.repeat(a, 2, axis=1)
    ),
    "background in fewer layers": lambda state: with_part(state, "reference.residues.background.", lambda a: a[:-1]),
    "Gaussians of fewer layers than requested": lambda state: with_part(
        state, "reference.embeddings.", lambda a: a[:-1]
    ),
    "Gaussians of more layers than requested": lambda state: with_part(
        state, "reference.residues.", lambda a: np.repeat(a, 2, axis=0)
    ),
    "Gaussians of narrower vectors than requested": lambda state: with_part(
        state, "reference.residues.", lambda a: a[:, :-1, :-1] if a.shape[1] == WIDTH else a[..., :-1]
    ),
}


@pytest.fixture(scope="module")
def fusion() -> CompositeDetector:
    generator = np.random.default_rng(3)
    return fitted(Fusion(classifier="none"), generator)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused(fusion: CompositeDetector, damage: Callable[[State], State]) -> None:
    with pytest.raises(InputError, match="expected"):
        Fusion.from_state(fusion.parameters(), damage(fusion.state()))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda state: without(state, "tail_score.classifier."), "expected"),
        (lambda state: without(state, "component.classifier.own_classifier"), "own_classifier"),
    ],
)
def test_a_damaged_classifier_is_refused(
    rng: np.random.Generator, damage: Callable[[State], State], match: str
) -> None:
    detector = fitted(quick(Path, classifier="random_forest"), rng, count=80, attacked=made_up(rng, 80, path=1))
    state = damage(detector.state())
    with pytest.raises(InputError, match=match):
        Path.from_state(detector.parameters(), state).score(made_up(rng, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_with_its_default_classifier_is_restored(
    rng: np.random.Generator, kind: type[CompositeDetector]
) -> None:
    detector = kind(minimum_per_class=30).prepare(made_up(rng, 200))
    detector.fit(made_up(rng, 200), made_up(rng, 200, path=1, view=3))
    assert detector.parameters()["classifier"] == "gradient_boosting"
    again = kind.from_state(detector.parameters(), detector.state())
    images = made_up(rng, 40, path=0.5)
    result, expected = again.score_components(images), detector.score_components(images)
    assert np.array_equal(result.score, expected.score)
    assert all(np.array_equal(result.components[name], vote) for name, vote in expected.components.items())
    assert kind.from_state(detector.parameters(), again.state()).score(images).tolist() == result.score.tolist()
