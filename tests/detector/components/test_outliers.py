"""Components for outliers, compared with pytorch-ood."""

import numpy as np
import pytest
import torch
from pytorch_ood import detector as detectors
from scipy.spatial.distance import cdist, cosine
from torch import nn

from detector.components.base import ColumnTable, Component, Inputs
from detector.components.core import ResidualDirection
from detector.components.fdbd import BoundaryDistance
from detector.components.gen import GeneralisedEntropy
from detector.components.nci import CollapseProximity
from detector.components.nearest_neighbours import NearestNeighbours
from detector.components.normalised_mahalanobis import NormalisedMahalanobis
from detector.components.normalised_relative_mahalanobis import NormalisedRelativeMahalanobis
from detector.features.path_vectors import PathVectors, ViewLogits
from models.features import Features
from models.images.views import View

CLASSES, WIDTH = 5, 8
NAME = PathVectors("embeddings").name


class Data:
    """Embeddings of a linear layer with their logits: 300 reference images and 40 others."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.head = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(0.3 * rng.normal(size=(CLASSES, WIDTH))))
            self.head.bias.copy_(torch.from_numpy(rng.normal(size=CLASSES)))
        means = 2 * rng.normal(size=(CLASSES, WIDTH))
        self.labels = rng.integers(CLASSES, size=300)
        self.reference = self.features(means[self.labels] + rng.normal(size=(300, WIDTH)))
        self.images = self.features(2 * rng.normal(size=(40, WIDTH)))

    def features(self, vectors: np.ndarray) -> Features:
        vectors = vectors.astype(np.float32)
        with torch.no_grad():
            logits = self.head(torch.from_numpy(vectors)).numpy()
        return Features(logits, np.zeros((len(vectors), 2), np.float32), {NAME: vectors[:, None]})

    def score(self, component: Component) -> np.ndarray:
        component.prepare(self.reference, self.labels)
        inputs = Inputs(*self.images)
        scores: np.ndarray = component.score(ColumnTable(component.columns(inputs), self.images.predicted, CLASSES))
        return scores


@pytest.fixture
def data(rng: np.random.Generator) -> Data:
    return Data(rng)


def vectors_of(features: Features, *, normalise: bool = False) -> torch.Tensor:
    vectors = torch.from_numpy(features.requested[NAME][:, 0]).double()
    return vectors / vectors.norm(dim=1, keepdim=True) if normalise else vectors


def test_generalised_entropy(data: Data) -> None:
    """The other implementation clips probabilities, which are all larger here, and takes the mean over classes."""
    expected = detectors.GEN.score(torch.from_numpy(data.images.logits).double()) * CLASSES
    np.testing.assert_allclose(data.score(GeneralisedEntropy()), expected.numpy(), rtol=1e-6)


def test_generalised_entropy_of_two_passes_is_a_sum(data: Data) -> None:
    request = ViewLogits(View(shift=1))
    requested = {**data.images.requested, request.name: data.images.logits}
    inputs = Inputs(data.images.logits, data.images.statistics, requested)
    once, twice = (GeneralisedEntropy(others).columns(inputs)["gen"] for others in ((), (request,)))
    np.testing.assert_allclose(twice, 2 * once)


def test_boundary_distance(data: Data) -> None:
    other = detectors.fDBD(None, data.head).fit_features(vectors_of(data.reference))
    expected = other.predict_features(vectors_of(data.images))
    np.testing.assert_allclose(data.score(BoundaryDistance()), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_neural_collapse(data: Data) -> None:
    other = detectors.NCI(None, data.head).fit_features(vectors_of(data.reference))
    expected = other.predict_features(vectors_of(data.images))
    # The fit of the weights is exact but for a vector that is common to all classes and to all embeddings.
    np.testing.assert_allclose(data.score(CollapseProximity()), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_residual_direction(data: Data) -> None:
    """Residuals as distances from the least-squares solution in the weights, one image at a time."""
    reference, images = (vectors_of(each).numpy() for each in (data.reference, data.images))
    mean, component = reference.mean(axis=0), ResidualDirection()
    scores = data.score(component)

    def residual(vector: np.ndarray) -> np.ndarray:
        weights = component.weights_.T
        left: np.ndarray = vector - mean - weights @ np.linalg.lstsq(weights, vector - mean, rcond=None)[0]
        return left

    means = [np.mean([residual(each) for each in reference[data.labels == k]], axis=0) for k in range(CLASSES)]
    expected = [1 - min(cosine(residual(each), direction) for direction in means) for each in images]
    np.testing.assert_allclose(scores, [-each for each in expected], rtol=1e-6, atol=1e-9)


def test_images_without_a_class_have_larger_residual_directions(data: Data, rng: np.random.Generator) -> None:
    centres = 2 * rng.normal(size=(CLASSES, WIDTH))
    data.reference = data.features(centres[data.labels] + 0.1 * rng.normal(size=(300, WIDTH)))
    natural, odd = centres[rng.integers(CLASSES, size=20)], 2 * rng.normal(size=(20, WIDTH))
    data.images = data.features(np.concatenate([natural, odd]))
    scores = data.score(ResidualDirection())
    assert (scores[:20] < -0.9).all()
    assert scores[:20].max() < np.median(scores[20:])


def test_there_is_no_residual_direction_if_the_weights_span_the_space(data: Data) -> None:
    def narrower(features: Features) -> Features:
        return features._replace(requested={NAME: features.requested[NAME][..., : CLASSES - 2]})

    data.reference, data.images = narrower(data.reference), narrower(data.images)
    assert not data.score(ResidualDirection()).any()


def test_nearest_neighbours(data: Data) -> None:
    distances = cdist(vectors_of(data.images, normalise=True), vectors_of(data.reference, normalise=True))
    np.testing.assert_allclose(data.score(NearestNeighbours(k=7)), np.sort(distances, axis=1)[:, 6], atol=1e-5)
    np.testing.assert_allclose(data.score(NearestNeighbours(k=900)), distances.max(axis=1), atol=1e-5)


def test_mahalanobis_distances_order_images_as_the_other_implementation(data: Data) -> None:
    """Its covariance is divided by another number; relative distances are a difference of two such quotients."""
    reference, images = (vectors_of(each, normalise=True) for each in (data.reference, data.images))
    labels = torch.from_numpy(data.labels)
    other = detectors.RMD(None).fit_features(reference.float(), labels)
    expected = other.predict_features(images.float()).numpy()
    scores = data.score(NormalisedRelativeMahalanobis())
    assert np.corrcoef(scores, expected)[0, 1] > 0.999
    plain = data.score(NormalisedMahalanobis())
    centred = reference - torch.stack([reference[labels == k].mean(0) for k in range(CLASSES)])[labels]
    precision = torch.linalg.inv(centred.T @ centred / len(centred))
    means = torch.stack([reference[labels == k].mean(0) for k in range(CLASSES)])
    differences = images[:, None] - means
    own = torch.einsum("nkd,de,nke->nk", differences, precision, differences).min(dim=1).values.numpy()
    assert np.corrcoef(plain, own)[0, 1] > 0.999
