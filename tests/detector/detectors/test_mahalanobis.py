"""Mahalanobis distances: against their definition, pytorch-ood, and numbers that are to stay as they are."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import RMD
from pytorch_ood.detector import Mahalanobis as Reference
from pytorch_ood.detector import MahalanobisODIN as ReferenceWithPreprocessing
from torch import Tensor, nn

from detector.calibration import Calibration
from detector.common.array_api import product_by_row
from detector.density.gaussians import Gaussians
from detector.detectors.mahalanobis import DistancesOfMoved, Mahalanobis
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.features.embeddings import PooledEmbeddings
from detector.metrics import auroc
from models.errors import InputError
from models.features import Features, extract_features
from models.residuals import StatisticsSpec, discover, pooled, record_residues
from tests.detector.embedded import clusters, embedded, waves

SHAPE = (3, 16, 16)


def fitted(detector: Mahalanobis | RelativeMahalanobis, rng: np.random.Generator) -> Mahalanobis | RelativeMahalanobis:
    embeddings, labels = clusters(rng, 120)
    fresh, _ = clusters(rng, 30)
    return detector.prepare(embedded(embeddings), labels).fit(embedded(fresh))


def test_distances_are_those_of_the_definition(rng: np.random.Generator) -> None:
    embeddings, labels = clusters(rng, 120)
    queries = embedded(clusters(rng, 20)[0] + 3)
    detector = Mahalanobis(classifier="none").prepare(embedded(embeddings), labels).fit(queries)
    total = np.zeros(20)
    vectors = embedded(embeddings).requested["embeddings"].astype(np.float64)
    for layer in range(2):
        h = vectors[:, layer]
        means = [h[labels == c].mean(axis=0) for c in range(3)]
        covariance = sum(np.outer(row, row) for row in h - np.array(means)[labels]) / 120
        precision = np.linalg.pinv(covariance, hermitian=True)
        differences = queries.requested["embeddings"][:, None, layer] - np.array(means)
        distances = np.einsum("ncd,de,nce->nc", differences, precision, differences).min(axis=1)
        total += distances
        np.testing.assert_allclose(detector._columns(queries)[:, layer], distances, rtol=1e-6)
    np.testing.assert_allclose(detector.score(queries), total, rtol=1e-6)


@pytest.mark.parametrize("kind", [Mahalanobis, RelativeMahalanobis])
def test_scores_are_pytorch_oods(kind: type[Mahalanobis | RelativeMahalanobis], rng: np.random.Generator) -> None:
    embeddings, labels = clusters(rng, 150)
    queries = embedded(clusters(rng, 40)[0] + rng.normal(size=(40, 1, 1)))
    score = kind(classifier="none", combine="last").prepare(embedded(embeddings), labels).fit(queries).score(queries)
    theirs = (Reference if kind is Mahalanobis else RMD)(None)
    theirs.fit_features(torch.from_numpy(embeddings[:, -1]).float(), torch.from_numpy(labels))
    expected = theirs.predict_features(torch.from_numpy(queries.requested["embeddings"][:, -1])).numpy()
    # Their covariance is not divided by the number of images, and one of the two is half the distance.
    factor = 150 * (2 if kind is Mahalanobis else 1)
    np.testing.assert_allclose(score, factor * expected, rtol=1e-3, atol=1e-3 * np.abs(score).max())


@pytest.fixture
def moved(tiny_network: nn.Module, rng: np.random.Generator) -> tuple[nn.Module, np.ndarray, Features, np.ndarray]:
    """A network, images, and the features and classes of reference images."""
    images = rng.random((80, *SHAPE), dtype=np.float32)
    features = extract_features(tiny_network, images, feature_requests=[PooledEmbeddings()])
    return tiny_network, images[:6], features, np.arange(80) % 2


def test_input_preprocessing_is_pytorch_oods(moved: tuple[nn.Module, np.ndarray, Features, np.ndarray]) -> None:
    network, images, reference, labels = moved
    discovery = discover(network, SHAPE)
    detector = Mahalanobis(magnitude=0.01, classifier="none", combine="last").prepare(reference, labels)
    queries = extract_features(network, images, feature_requests=detector.feature_requests())
    score = detector.fit(queries).score(queries)

    def encoder(batch: Tensor) -> Tensor:
        with record_residues(
            network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True
        ) as recording:
            network(batch)
        return pooled(recording.embeddings[-1])

    theirs = ReferenceWithPreprocessing(encoder, eps=0.01)
    theirs.fit_features(torch.from_numpy(reference.requested["embeddings"][:, -1]), torch.from_numpy(labels))
    expected = 2 * 80 * theirs.predict(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(score, expected, rtol=0.02)
    # The comparison includes the pre-processing: without it the scores are larger.
    plain = Mahalanobis(classifier="none", combine="last").prepare(reference, labels)
    natural = extract_features(network, images, feature_requests=plain.feature_requests())
    assert (plain.fit(natural).score(natural) > 1.02 * score).all()


def test_every_layer_moves_an_image_of_its_own(moved: tuple[nn.Module, np.ndarray, Features, np.ndarray]) -> None:
    network, images, reference, labels = moved
    gaussians = Gaussians.fit(reference.requested["embeddings"], labels)
    unmoved = DistancesOfMoved(gaussians, "blocks", 0.0)
    requested = extract_features(network, images, feature_requests=[unmoved, PooledEmbeddings()]).requested
    expected = gaussians.distances(requested["embeddings"])
    np.testing.assert_allclose(requested[unmoved.name], expected, rtol=1e-3)
    little = DistancesOfMoved(gaussians, "blocks", 0.002)
    nearer = extract_features(network, images, feature_requests=[little]).requested[little.name]
    assert nearer.shape == (6, 3)
    assert (nearer < expected).all()


def test_preprocessing_is_requested_after_prepare_with_a_digest_of_the_state(
    moved: tuple[nn.Module, np.ndarray, Features, np.ndarray],
) -> None:
    network, images, reference, labels = moved
    detector = Mahalanobis(magnitude=0.002, num_trees=5)
    assert [feature_request.name for feature_request in detector.feature_requests()] == ["embeddings"]
    _, feature_request = detector.prepare(reference, labels).feature_requests()
    _, other = Mahalanobis(magnitude=0.002).prepare(reference, 1 - np.arange(80) // 40).feature_requests()
    assert len({feature_request.name, other.name}) == 2
    features = extract_features(network, images, feature_requests=detector.feature_requests())
    with pytest.raises(InputError, match="request 'mahalanobis:"):
        detector.fit(reference, reference)
    detector.fit(features, features)
    again = Mahalanobis.from_state(detector.parameters(), detector.state())
    assert again.feature_requests()[1].name == feature_request.name
    assert np.array_equal(again.score(features), detector.score(features))
    with pytest.raises(InputError):
        Mahalanobis.from_state(detector.parameters() | {"magnitude": 0.01}, detector.state())
    # A second `prepare` discards the first state and changes the feature request.
    assert detector.prepare(reference, 1 - np.arange(80) // 40).feature_requests()[1].name == other.name


def test_the_batch_size_does_not_change_preprocessed_distances(
    moved: tuple[nn.Module, np.ndarray, Features, np.ndarray],
) -> None:
    network, images, reference, labels = moved
    feature_request = DistancesOfMoved(Gaussians.fit(reference.requested["embeddings"], labels), "blocks", 0.002)
    whole = extract_features(network, images, feature_requests=[feature_request]).requested[feature_request.name]
    split = extract_features(network, images, feature_requests=[feature_request], batch_size=2).requested[
        feature_request.name
    ]
    np.testing.assert_allclose(split, whole, rtol=1e-2)


def test_columns_common_to_all_classes_have_no_effect(rng: np.random.Generator) -> None:
    """A column that distinguishes no classes adds the same to the distance to each class and to the distance to all."""
    embeddings, labels = clusters(rng, 6000, layers=1)
    common = rng.normal(size=(6000, 1, 1))
    detector = RelativeMahalanobis(classifier="none").prepare(
        embedded(np.concatenate([embeddings, common], axis=2)), labels
    )
    queries = np.repeat(clusters(rng, 3, layers=1)[0], 2, axis=0)
    column = np.tile([0.0, 8.0], 3).reshape(6, 1, 1)
    features = embedded(np.concatenate([queries, column], axis=2))
    usual, unusual = detector.fit(features).score(features).reshape(3, 2).T
    np.testing.assert_allclose(unusual, usual, atol=6)
    plain = Mahalanobis(classifier="none").prepare(embedded(np.concatenate([embeddings, common], axis=2)), labels)
    usual, unusual = plain.fit(features).score(features).reshape(3, 2).T
    assert (unusual > usual + 40).all()


def test_columns_that_no_reference_image_moved_in_count_for_nothing(rng: np.random.Generator) -> None:
    embeddings, labels = clusters(rng, 120)
    wider = np.concatenate([embeddings, np.zeros((120, 2, 3))], axis=2)
    narrow, wide = (Gaussians.fit(values, labels).distances(values) for values in (embeddings, wider))
    np.testing.assert_allclose(wide, narrow, rtol=1e-9)


def test_equal_reference_images_give_no_distance() -> None:
    embeddings = np.ones((6, 1, 4))
    assert np.array_equal(Gaussians.fit(embeddings, np.zeros(6, dtype=int)).distances(2 * embeddings), np.zeros((6, 1)))


@pytest.mark.parametrize("width", [1, 7, 64, 300])
def test_a_product_by_row_does_not_depend_on_the_other_rows(rng: np.random.Generator, width: int) -> None:
    rows, matrix = rng.normal(size=(33, width)), rng.normal(size=(width, width))
    product = product_by_row(rows, matrix)
    np.testing.assert_allclose(product, rows @ matrix, rtol=1e-9, atol=1e-9)
    for count in (1, 2, 5, 32):
        assert np.array_equal(product_by_row(rows[:count], matrix), product[:count])
        assert np.array_equal(product_by_row(np.asfortranarray(rows[-count:]), matrix), product[-count:])


@pytest.mark.parametrize("kind", [Mahalanobis, RelativeMahalanobis])
def test_one_image_has_the_score_of_the_batch(
    kind: type[Mahalanobis | RelativeMahalanobis], rng: np.random.Generator
) -> None:
    detector = kind(classifier="none").prepare(*_wide(rng, 300))
    queries = _wide(rng, 70)[0]
    together = detector.fit(queries).score(queries)
    assert np.array_equal([detector.score(queries.take(np.array([row])))[0] for row in range(70)], together)


def _wide(rng: np.random.Generator, count: int) -> tuple[Features, np.ndarray]:
    embeddings, labels = clusters(rng, count, layers=3, width=64)
    return embedded(embeddings), labels


@pytest.mark.parametrize("kind", [Mahalanobis, RelativeMahalanobis])
@pytest.mark.parametrize("combine", ["sum", "last"])
def test_scores_equal_stored_scores(kind: type[Mahalanobis | RelativeMahalanobis], combine: str) -> None:
    reference = embedded(waves(40, 2, 3, 0.7))
    queries = embedded(1.5 * waves(4, 2, 3, 1.3))
    detector = kind(classifier="none", combine=combine)  # type: ignore[arg-type]
    score = detector.prepare(reference, np.arange(40) % 3).fit(queries).score(queries)
    np.testing.assert_allclose(score, STORED[kind.__name__, combine], rtol=1e-6, atol=1e-7)


STORED = {
    ("Mahalanobis", "sum"): [11.80853348343539, 10.956250166395387, 15.316487031290018, 13.01886050055612],
    ("Mahalanobis", "last"): [6.747857940274386, 2.161749278580165, 7.565825352831374, 9.868700228066919],
    ("RelativeMahalanobis", "sum"): [-1.1596197155733794, -1.8750433388516634, -2.3974934809, -0.9579991335309836],
    ("RelativeMahalanobis", "last"): [0.02763882632090997, -0.38236043421566857, -1.4148380736, -0.9929062467977001],
}


@pytest.mark.parametrize(
    "parameters",
    [
        {"layers": "all"},
        {"layers": 3},
        {"magnitude": -0.1},
        {"magnitude": float("nan")},
        {"magnitude": True},
        {"combine": "mean"},
        {"classifier": "forest"},
    ],
)
def test_options_that_cannot_be_used_are_refused(rng: np.random.Generator, parameters: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        fitted(Mahalanobis(**parameters), rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["classes", "layers", "size", "none"])
def test_a_damaged_state_is_refused(rng: np.random.Generator, damage: str) -> None:
    detector = fitted(Mahalanobis(classifier="none"), rng)
    state = {name: array.copy() for name, array in detector.state().items()}
    if damage == "classes":
        state["reference.means"] = np.repeat(state["reference.means"], 2, axis=1)
    elif damage == "layers":
        state["reference.whitening"] = state["reference.whitening"][:1]
    elif damage == "size":
        state["reference.whitening"] *= 1e60
    else:
        state["reference.means"] = state["reference.means"][:, :0]
    with pytest.raises(InputError):
        Mahalanobis.from_state(detector.parameters(), state)


def test_parts_of_a_relative_distance_belong_together(rng: np.random.Generator) -> None:
    detector = fitted(RelativeMahalanobis(classifier="none"), rng)
    state = {name: array.copy() for name, array in detector.state().items()}
    state["reference.background.means"] = state["reference.background.means"][:1]
    state["reference.background.whitening"] = state["reference.background.whitening"][:1]
    with pytest.raises(InputError, match="same layers"):
        RelativeMahalanobis.from_state(detector.parameters(), state)


def test_one_image_per_class_detects_and_has_the_stated_rate(rng: np.random.Generator) -> None:
    """60 reference images in 40 dimensions, each of a class of its own; the covariance around them would be zero."""
    mixing = rng.normal(size=(40, 40))
    natural, shifted = (rng.normal(size=(count, 1, 40)) @ mixing for count in (460, 200))
    shifted = shifted + 4 * rng.normal(size=(200, 1, 40))
    labels = np.arange(60)
    detector = Mahalanobis(classifier="none").prepare(embedded(natural[:60], classes=1000), labels)
    detector.fit(embedded(natural[60:160], classes=1000))
    calibration = Calibration(detector.score(embedded(natural[160:260], classes=1000)), 0.05)
    scores = detector.score(embedded(natural[260:], classes=1000))
    realised = float(calibration.flags(scores).mean())
    assert realised in calibration.expected_realised_rate(200, 1 - 1e-6)
    assert auroc(scores, detector.score(embedded(shifted, classes=1000))) > 0.75


def test_relative_distances_need_classes(rng: np.random.Generator) -> None:
    embeddings, _ = clusters(rng, 60)
    with pytest.raises(InputError, match="no class has 5 reference images"):
        RelativeMahalanobis().prepare(embedded(embeddings, classes=60), np.arange(60))
