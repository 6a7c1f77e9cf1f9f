"""Distances to neighbours and local dimension: against their definitions, pytorch-ood, and cases worked by hand."""

import numpy as np
import pytest
import torch
from pytorch_ood import detector as pytorch_ood
from scipy.spatial.distance import cdist

from detector.density.neighbours import Neighbours
from detector.detectors.knn import KNN
from detector.detectors.lid import LID, local_dimension
from models.errors import InputError
from tests.detector.embedded import clusters, embedded, waves


def test_distances_are_the_k_smallest(rng: np.random.Generator) -> None:
    bank, queries = rng.normal(size=(50, 2, 4)).astype(np.float32), rng.normal(size=(9, 2, 4)).astype(np.float32)
    found = Neighbours(bank).distances(queries, 5)
    for layer in range(2):
        expected = np.sort(cdist(queries[:, layer], bank[:, layer]), axis=1)[:, :5]
        np.testing.assert_allclose(found[:, layer], expected, rtol=1e-9)


def test_distances_do_not_depend_on_the_batch(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    neighbours = Neighbours(rng.normal(size=(70, 3, 64)).astype(np.float32))
    queries = rng.normal(size=(41, 3, 64)).astype(np.float32)
    together = neighbours.distances(queries, 7)
    for count in (1, 2, 3, 5, 40):
        assert np.array_equal(neighbours.distances(queries[-count:], 7), together[-count:])
    monkeypatch.setattr("detector.density.neighbours._AT_ONCE", 300)
    assert np.array_equal(neighbours.distances(queries, 7), together)


def test_knn_is_pytorch_oods(rng: np.random.Generator) -> None:
    bank, queries = clusters(rng, 90)[0], embedded(clusters(rng, 30)[0])
    score = KNN(k=7, classifier="none").prepare(embedded(bank)).fit(queries).score(queries)
    theirs = pytorch_ood.KNN(None, k=7)
    theirs.fit_features(torch.from_numpy(embedded(bank).requested["embeddings"][:, -1]), torch.zeros(90))
    expected = theirs.predict_features(torch.from_numpy(queries.requested["embeddings"][:, -1])).numpy()
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-6)


def test_knn_looks_at_directions_only(rng: np.random.Generator) -> None:
    bank, queries = embedded(clusters(rng, 90)[0]), clusters(rng, 30)[0]
    detector = KNN(k=3, classifier="none").prepare(bank).fit(bank)
    np.testing.assert_allclose(detector.score(embedded(queries)), detector.score(embedded(100 * queries)), rtol=1e-4)
    assert np.isfinite(detector.score(embedded(np.zeros((1, 2, 5))))).all()


def test_local_dimension_by_hand() -> None:
    # log(1/4), log(2/4) and log(4/4) are −2, −1 and 0 times log 2.
    assert local_dimension(np.array([1.0, 2.0, 4.0])) == pytest.approx(1 / np.log(2))
    # The same distances in another unit.
    assert local_dimension(np.array([[3.0, 6.0, 12.0]])) == pytest.approx(1 / np.log(2))
    assert local_dimension(np.array([2.0, 2.0, 2.0])) == pytest.approx(1e6)
    assert np.isfinite(local_dimension(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))).all()


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_local_dimension_of_points_in_a_space_is_the_spaces(rng: np.random.Generator, dimension: int) -> None:
    """Distances of neighbours in d dimensions are distributed as u^(1/d)."""
    distances = np.sort(rng.uniform(size=(400, 60)) ** (1 / dimension), axis=1)[:, :50]
    assert np.median(local_dimension(distances)) == pytest.approx(dimension, rel=0.1)


def test_lids_columns_are_the_dimension_at_every_block(rng: np.random.Generator) -> None:
    bank, queries = clusters(rng, 60)[0].astype(np.float32), clusters(rng, 20)[0].astype(np.float32)
    detector = LID(k=6).prepare(embedded(bank))
    columns = detector._columns(embedded(queries))
    for layer in range(2):
        r = np.sort(cdist(queries[:, layer], bank[:, layer]), axis=1)[:, :6]
        np.testing.assert_allclose(columns[:, layer], -1 / np.log(r / r[:, -1:]).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        (
            KNN(k=4),
            [
                [0.3121286271088376, 0.5977521470968213],
                [0.35796822764968256, 0.5164497403278859],
                [0.7715884680531374, 0.5168559966289556],
            ],
        ),
        (
            LID(k=8),
            [
                [2.0142877371962715, 5.152703165898258],
                [2.116382537915285, 3.771383953505176],
                [5.000237385318668, 3.0119233413616],
            ],
        ),
    ],
    ids=["knn", "lid"],
)
def test_columns_equal_stored_values(detector: KNN | LID, expected: list[list[float]]) -> None:
    detector.prepare(embedded(waves(40, 2, 3, 0.7)))
    np.testing.assert_allclose(detector._columns(embedded(1.5 * waves(3, 2, 3, 1.3))), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [KNN, LID])
def test_a_bank_smaller_than_k_is_refused(kind: type[KNN | LID], rng: np.random.Generator) -> None:
    bank = embedded(clusters(rng, 10)[0])
    with pytest.raises(InputError, match="k=11"):
        kind(k=11).prepare(bank)
    detector = kind(k=10, num_trees=3).prepare(bank).fit(bank, bank)
    with pytest.raises(InputError, match="k=11"):
        kind.from_state(detector.parameters() | {"k": 11}, detector.state())


@pytest.mark.parametrize(("kind", "k"), [(KNN, 0), (KNN, 2.0), (KNN, True), (LID, 1), (LID, "3")])
def test_a_k_that_is_no_number_of_neighbours_is_refused(kind: type[KNN | LID], k: object) -> None:
    with pytest.raises(InputError, match="expected k"):
        kind(k=k).prepare(embedded(np.ones((30, 1, 2))))  # type: ignore[arg-type]


def test_lid_has_no_outlier_score_of_its_own() -> None:
    with pytest.raises(InputError, match="expected the classifier"):
        LID(classifier="none").prepare(embedded(np.ones((30, 1, 2))))  # type: ignore[arg-type]
