"""Signs of an abnormal image: how they are joined, what each sees, what attacks teach, and what a state may hold."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from detector.base.composite import LEARNT, SignsDetector, class_scales, joined
from detector.calibration import Calibration
from detector.detectors.fusion import Fusion
from detector.detectors.path import Path
from detector.detectors.views import Views
from detector.features.path_vectors import PathVectors, ViewLogits, ViewStatistics, ViewVectors
from detector.metrics import auroc
from models.errors import InputError
from models.features import Features
from models.images.views import View

CLASSES, COLUMNS, LAYERS, WIDTH = 3, 6, 2, 4
SHIFT = View(shift=1)
EDGE = -np.log10(0.05)  # the surprise of one natural image in twenty
KINDS: tuple[type[SignsDetector], ...] = (Path, Views, Fusion)

State = dict[str, np.ndarray]


def made_up(rng: np.random.Generator, count: int, *, path: float = 0, view: float = 0, spread: float = 1) -> Features:
    """Features of natural images with all that these detectors ask to be measured.

    Args:
        path: by how many natural deviations embeddings and residues are off.
        view: by how much the view's logits are drawn to another class.
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
        ViewStatistics(SHIFT): statistics + 0.02 * rng.normal(size=statistics.shape),
        ViewVectors(SHIFT): embeddings + 0.2 * rng.normal(size=embeddings.shape),
    }
    return Features(
        logits.astype(np.float32),
        statistics.astype(np.float32),
        {each.name: values.astype(np.float32) for each, values in requested.items()},
    )


def fitted(
    detector: SignsDetector, rng: np.random.Generator, *, count: int = 300, attacked: Features | None = None
) -> SignsDetector:
    """The detector, prepared and fitted on as many natural images."""
    return detector.prepare(made_up(rng, 200)).fit(made_up(rng, count), attacked)


def quick(kind: type[SignsDetector], **options: Any) -> SignsDetector:
    """A detector with the all-class classifier alone."""
    return kind(**{"minimum_per_class": 10_000, "num_trees": 20, **options})


# --- joining


def test_signs_are_joined_by_a_norm(rng: np.random.Generator) -> None:
    first, second, learnt = rng.exponential(size=(3, 50))
    signs = {"first": first, LEARNT: learnt, "second": second}
    weighted = 1.5 * learnt
    np.testing.assert_allclose(joined(signs, power=1), first + second + weighted)
    np.testing.assert_allclose(joined(signs, power=2), np.sqrt(first**2 + second**2 + weighted**2))
    np.testing.assert_allclose(joined(signs, power=float("inf")), np.max([first, second, weighted], axis=0))
    assert np.array_equal(joined(signs), joined(signs, power=2))


@pytest.mark.parametrize("power", [1, 2, float("inf")])
def test_only_the_learnt_sign_is_weighted(rng: np.random.Generator, power: float) -> None:
    number = rng.exponential(size=20)
    np.testing.assert_allclose(joined({"other": number}, power=power, learnt_weight=5), number)
    np.testing.assert_allclose(joined({LEARNT: number}, power=power, learnt_weight=5), 5 * number)
    without = joined({"other": number, LEARNT: number}, power=power, learnt_weight=0)
    np.testing.assert_allclose(without, number)


def test_joining_leaves_the_signs_as_they_are(rng: np.random.Generator) -> None:
    signs = {"first": rng.exponential(size=9), "second": rng.exponential(size=9)}
    copies = {name: values.copy() for name, values in signs.items()}
    for power in (1, 2, float("inf")):
        joined(signs, power=power)[:] = -1
    assert all(np.array_equal(signs[name], copies[name]) for name in signs)


def test_surprises_without_end_join_to_a_finite_score() -> None:
    assert np.isfinite(joined({"a": np.array([1e12]), LEARNT: np.array([1e12])})).all()


# --- classes


def test_scales_even_out_what_classes_reach(rng: np.random.Generator) -> None:
    predicted = rng.integers(3, size=6000)
    size = np.array([1.0, 2.0, 0.5])
    norms = size[predicted] * rng.exponential(size=6000)
    scales = class_scales(norms, predicted, 4)
    assert scales[3] == 1  # nothing is known of it
    fresh = rng.integers(3, size=6000)
    scaled = size[fresh] * rng.exponential(size=6000) / scales[fresh]
    threshold = np.quantile(scaled, 0.95)
    for k in range(3):
        assert 0.025 < (scaled[fresh == k] >= threshold).mean() < 0.08


def test_a_class_with_few_images_is_hardly_scaled(rng: np.random.Generator) -> None:
    norms = np.concatenate([rng.exponential(size=2000), np.full(2, 50.0)])
    few = class_scales(norms, np.repeat([0, 1], [2000, 2]), 2)[1]
    assert 1 < few < 1.5


def test_norms_that_are_all_zero_have_scales_of_one() -> None:
    assert np.array_equal(class_scales(np.zeros(40), np.repeat([0, 1], 20), 2), [1, 1])


# --- which signs there are


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Path, ["path", "logits", "energy"]),
        (Views, ["dispute", "change", "view_energy"]),
        (Fusion, ["path", "logits", "dispute", "change", "view_energy"]),
    ],
)
def test_every_detector_has_its_signs(rng: np.random.Generator, kind: type[SignsDetector], expected: list[str]) -> None:
    detector, images = fitted(kind(classifier="none"), rng), made_up(rng, 9)
    surprises = detector.surprises(images)
    assert sorted(surprises) == sorted(expected)
    norms = np.linalg.norm(list(surprises.values()), axis=0)
    np.testing.assert_allclose(detector.score(images), norms / detector.scales_[images.predicted])
    for name, share in detector.score_components(images).components.items():
        np.testing.assert_allclose(share, 1 - 10 ** -surprises[name])


def test_the_learnt_sign_counts_more_and_shows_its_votes(rng: np.random.Generator) -> None:
    detector = fitted(quick(Path), rng, attacked=made_up(rng, 100, path=2))
    images = made_up(rng, 9)
    surprises = detector.surprises(images)
    others = sum(surprises[name] ** 2 for name in ("path", "logits", "energy"))
    norms = np.sqrt(others + (1.5 * surprises[LEARNT]) ** 2)
    np.testing.assert_allclose(detector.score(images), norms / detector.scales_[images.predicted])
    assert set(detector.score_components(images).components) == {
        "all_class",
        "predicted_class",
        "path",
        "logits",
        "energy",
    }


def test_groups_that_are_left_out_take_their_signs_along(rng: np.random.Generator) -> None:
    detector = fitted(Fusion(groups="outputs+statistics", classifier="none"), rng)
    images, others = made_up(rng, 9), made_up(rng, 9)
    assert set(detector.surprises(images)) == {"path", "dispute", "change"}
    # Nothing but what the groups say is looked at: the same images with another path have the same score.
    other_path = {
        name: others.requested[name] if "vectors" in name else values for name, values in images.requested.items()
    }
    assert np.array_equal(detector.score(images._replace(requested=other_path)), detector.score(images))
    assert not np.allclose(detector.score(images._replace(statistics=others.statistics)), detector.score(images))


def test_learning_from_groups_without_signs_leaves_the_learnt_sign(rng: np.random.Generator) -> None:
    detector = fitted(quick(Fusion, groups="contrasts"), rng, attacked=made_up(rng, 100, path=2))
    assert set(detector.surprises(made_up(rng, 3))) == {LEARNT}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", ["", "+", "nothing", "all+logits", "logits+", " all", None, ["logits"], 3])
def test_groups_that_there_are_not_are_refused(
    rng: np.random.Generator, kind: type[SignsDetector], groups: object
) -> None:
    with pytest.raises(InputError, match="expected groups to be all, or some of"):
        kind(groups=groups).prepare(made_up(rng, 50))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "groups"), [(Path, "contrasts"), (Views, "view_statistics+view_classes"), (Fusion, "energy")]
)
def test_without_a_sign_and_without_attacks_there_is_no_score(
    rng: np.random.Generator, kind: type[SignsDetector], groups: str
) -> None:
    with pytest.raises(InputError, match="some sign looks at"):
        kind(groups=groups, classifier="none").prepare(made_up(rng, 50))


@pytest.mark.parametrize("view", ["", "flop", "shift0", None, 3, ["flip"]])
def test_views_that_there_are_not_are_refused(rng: np.random.Generator, view: object) -> None:
    with pytest.raises(InputError, match="expected a view such as"):
        Views(view=view).prepare(made_up(rng, 50))  # type: ignore[arg-type]


# --- what they see


@pytest.mark.parametrize(
    ("kind", "odd", "sign"),
    [(Path, {"path": 6}, "path"), (Views, {"view": 25}, "dispute"), (Fusion, {"path": 6}, "path"),
     (Fusion, {"view": 25}, "dispute")],
)  # fmt: skip
def test_natural_images_alone_are_enough_to_flag_what_is_odd(
    rng: np.random.Generator, kind: type[SignsDetector], odd: dict[str, float], sign: str
) -> None:
    detector = fitted(kind(classifier="none"), rng)
    natural, strange = made_up(rng, 300), made_up(rng, 300, **odd)
    assert auroc(detector.score(natural), detector.score(strange)) > 0.95
    assert np.median(detector.surprises(strange)[sign]) > 2
    assert np.median(detector.surprises(natural)[sign]) < 1


def test_the_learnt_sign_helps_where_an_attack_hides_among_natural_images(rng: np.random.Generator) -> None:
    # Paths nearer to the mean of the class than natural ones are: no sign of natural images is larger for them.
    natural, attacked, fresh = made_up(rng, 300), *(made_up(rng, 300, spread=0.4) for _ in range(2))
    found = {
        classifier: fitted(quick(Path, classifier=classifier), rng, count=500, attacked=attacked)
        for classifier in ("none", "gradient_boosting")
    }
    separation = {name: auroc(each.score(natural), each.score(fresh)) for name, each in found.items()}
    assert separation["none"] < 0.6
    assert separation["gradient_boosting"] > 0.8


def test_what_attacks_teach_leaves_the_other_signs_as_they_are(rng: np.random.Generator) -> None:
    reference, natural, images = made_up(rng, 200), made_up(rng, 200), made_up(rng, 30, view=5)
    surprises = [
        quick(Fusion, classifier=classifier).prepare(reference).fit(natural, made_up(rng, 90, path=1)).surprises(images)
        for classifier in ("none", "logistic_regression")
    ]
    for name, values in surprises[0].items():
        assert np.array_equal(values, surprises[1][name])


# --- which images the surprises come from


@pytest.mark.parametrize("count", [40, 400])
def test_surprises_come_from_images_that_nothing_else_was_learnt_from(rng: np.random.Generator, count: int) -> None:
    # Nothing can be learnt, so a forest knows its own images by heart and says half of any others.
    detector = fitted(quick(Path, classifier="random_forest"), rng, count=count, attacked=made_up(rng, count))
    surprising = detector.surprises(made_up(rng, 1000))[LEARNT] > EDGE
    assert surprising.mean() < 0.5


@pytest.mark.parametrize("count", [24, 40, 79])
def test_few_natural_images_are_enough_to_know_what_is_odd(rng: np.random.Generator, count: int) -> None:
    """The path's many columns fit few images too well; that must not drown the other signs."""
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
        by_any_sign = [joined(detector.surprises(images), power=float("inf")) for images in (held_out, fresh)]
        for calibrate, test in ((detector.score(held_out), detector.score(fresh)), by_any_sign):
            calibration = Calibration(calibrate, 0.05)
            assert calibration.flags(test).mean() in calibration.expected_realised_rate(len(test), 1 - 1e-6)


# --- state


def without(state: State, *names: str) -> State:
    return {name: array for name, array in state.items() if not name.startswith(names)}


def with_part(state: State, prefix: str, change: Callable[[np.ndarray], np.ndarray]) -> State:
    """The state with all arrays of these names changed alike."""
    changed = {name: change(array) if name.startswith(prefix) else array for name, array in state.items()}
    assert any(changed[name] is not state[name] for name in state)
    return changed


DAMAGE: dict[str, Callable[[State], State]] = {
    "no scales": lambda state: without(state, "scales"),
    "a class's scale of nothing": lambda state: with_part(state, "scales", lambda a: a * 0),
    "a class's scale below nothing": lambda state: with_part(state, "scales", lambda a: -a),
    "scales of other classes": lambda state: with_part(state, "scales", lambda a: a[:-1]),
    "widths of its own": lambda state: state | {"widths": np.array([6, 4])},
    "no natural columns": lambda state: without(state, "natural.path."),
    "a scale of nothing": lambda state: with_part(state, "natural.path.scale", lambda a: a * 0),
    "fewer classes": lambda state: with_part(state, "natural.path.means", lambda a: a[:, :-1]),
    "no surprise": lambda state: without(state, "surprise.change."),
    "a surprise of no sign": lambda state: state | {"surprise.other.knots": state["surprise.change.knots"]},
    "falling knots": lambda state: with_part(state, "surprise.dispute.knots", lambda a: a[::-1]),
    "no tail": lambda state: with_part(state, "surprise.path.excess", lambda a: a * 0),
    "a classifier that there is not": lambda state: state | {"own_classifier": np.zeros(CLASSES, dtype=np.int64)},
    "Gaussians of nothing known": lambda state: state | {"reference.means": np.zeros((1, 1, 1))},
    "no Gaussians": lambda state: without(state, "reference.residues.everyone"),
    "Gaussians of fewer classes": lambda state: with_part(
        state, "reference.embeddings.classes.means", lambda a: a[:, :-1]
    ),
    "Gaussians of more than everyone": lambda state: with_part(
        state, "reference.embeddings.everyone.means", lambda a: np.repeat(a, 2, axis=1)
    ),
    "everyone in fewer layers": lambda state: with_part(state, "reference.residues.everyone.", lambda a: a[:-1]),
    "Gaussians of fewer layers than measured": lambda state: with_part(
        state, "reference.embeddings.", lambda a: a[:-1]
    ),
    "Gaussians of more layers than measured": lambda state: with_part(
        state, "reference.residues.", lambda a: np.repeat(a, 2, axis=0)
    ),
    "Gaussians of narrower vectors than measured": lambda state: with_part(
        state, "reference.residues.", lambda a: a[:, :-1, :-1] if a.shape[1] == WIDTH else a[..., :-1]
    ),
}


@pytest.fixture(scope="module")
def fusion() -> SignsDetector:
    generator = np.random.default_rng(3)
    return fitted(Fusion(classifier="none"), generator)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused(fusion: SignsDetector, damage: Callable[[State], State]) -> None:
    with pytest.raises(InputError, match="expected"):
        Fusion.from_state(fusion.parameters(), damage(fusion.state()))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda state: without(state, "surprise.learnt."), "expected"),
        (lambda state: without(state, "own_classifier"), "own_classifier"),
    ],
)
def test_a_damaged_learnt_sign_is_refused(
    rng: np.random.Generator, damage: Callable[[State], State], match: str
) -> None:
    detector = fitted(quick(Path, classifier="random_forest"), rng, count=80, attacked=made_up(rng, 80, path=1))
    state = damage(detector.state())
    with pytest.raises(InputError, match=match):
        Path.from_state(detector.parameters(), state).score(made_up(rng, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_with_its_default_classifier_comes_back(rng: np.random.Generator, kind: type[SignsDetector]) -> None:
    detector = kind(minimum_per_class=30).prepare(made_up(rng, 200))
    detector.fit(made_up(rng, 200), made_up(rng, 200, path=1, view=3))
    assert detector.parameters()["classifier"] == "gradient_boosting"
    again = kind.from_state(detector.parameters(), detector.state())
    images = made_up(rng, 40, path=0.5)
    judged, expected = again.score_components(images), detector.score_components(images)
    assert np.array_equal(judged.score, expected.score)
    assert all(np.array_equal(judged.components[name], vote) for name, vote in expected.components.items())
    assert kind.from_state(detector.parameters(), again.state()).score(images).tolist() == judged.score.tolist()
