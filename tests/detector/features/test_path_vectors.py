"""Vectors of a path and of a view of it, on real passes, against passes of the images and of their view apart."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.features import path_vectors
from detector.features.path_columns import relative_distances
from detector.features.path_vectors import WIDTH, PathVectors, ViewLogits, ViewStatistics, ViewVectors
from models.features import FeatureExtractor, FeatureRequest, Features, extract_features
from models.images.views import View
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover, record_residues

SHAPE = (3, 16, 16)
FLIP, SHIFT = View(flip=True), View(shift=1)


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((5, *SHAPE), dtype=np.float32))


@pytest.fixture
def wide_network(seed: int) -> nn.Module:
    """A network whose last block is wider than a vector may be."""
    torch.manual_seed(seed)
    network = ResNet(1, num_classes=4, width=WIDTH // 4 + 8)
    return Normalized(network, (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)


def whole_path(network: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """(embeddings, residues) of every block, from a pass of their own."""
    discovery, of_embeddings = discover(network, tuple(images.shape[1:])), StatisticsSpec(quantity="embeddings")
    with (
        torch.no_grad(),
        record_residues(network, discovery, keep=True) as steps,
        record_residues(network, discovery, statistics_spec=of_embeddings, keep=True) as kept,
    ):
        network(images)
    return list(kept.embeddings), list(steps.residues)


def requested(network: nn.Module, images: Tensor, *feature_requests: FeatureRequest) -> list[np.ndarray]:
    features = extract_features(network, images, feature_requests=feature_requests, batch_size=3)
    return [features.requested[feature_request.name] for feature_request in feature_requests]


def directions(width: int) -> np.ndarray:
    """What vectors of that width are projected to."""
    drawn: np.ndarray = torch.randn(width, WIDTH, generator=torch.Generator().manual_seed(width)).numpy()
    return drawn / np.sqrt(WIDTH)


def test_embeddings_and_residues_are_averaged_over_places(tiny_network: nn.Module, images: Tensor) -> None:
    embeddings, residues = whole_path(tiny_network, images)
    found = requested(tiny_network, images, PathVectors("embeddings"), PathVectors("residues"))
    for vectors, expected in zip(found, (embeddings, residues), strict=True):
        assert vectors.shape == (5, 3, 16)
        assert vectors.dtype == np.float32
        for block, whole in enumerate(expected):
            width = whole.shape[1]
            np.testing.assert_allclose(vectors[:, block, :width], whole.mean(dim=(2, 3)), rtol=1e-4, atol=1e-6)
            assert not vectors[:, block, width:].any()


def test_wide_vectors_are_projected_to_fixed_directions(wide_network: nn.Module, images: Tensor) -> None:
    embeddings, residues = whole_path(wide_network, images)
    assert embeddings[-1].shape[1] > WIDTH > embeddings[1].shape[1]
    for what, expected in (("embeddings", embeddings), ("residues", residues)):
        (found,) = requested(wide_network, images, PathVectors(what))  # type: ignore[arg-type]
        assert found.shape == (5, 3, WIDTH)
        last, middle = (each.mean(dim=(2, 3)).numpy() for each in (expected[-1], expected[1]))
        np.testing.assert_allclose(found[:, 2], last @ directions(last.shape[1]), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found[:, 1, : middle.shape[1]], middle, rtol=1e-4, atol=1e-6)


def test_the_directions_equal_stored_values() -> None:
    """Artifacts do not contain the directions: a change makes scores of artifacts with wide networks wrong."""
    expected = [-0.0030846, -0.0322943, -0.0016017]
    np.testing.assert_allclose(directions(288)[[0, 0, 287], [0, 255, 128]], expected, rtol=1e-3)


def test_projected_vectors_are_as_far_apart_as_they_were(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(100, 2048))
    projected = vectors @ directions(2048)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1) / np.linalg.norm(vectors, axis=1), 1, atol=0.3)


@pytest.mark.parametrize("view", [FLIP, SHIFT, View(flip=True, shift=2)])
def test_a_views_own_are_those_of_its_own_pass(tiny_network: nn.Module, images: Tensor, view: View) -> None:
    apart = extract_features(tiny_network, view(images), feature_requests=[PathVectors()])
    logits, statistics, vectors = requested(
        tiny_network, images, ViewLogits(view), ViewStatistics(view), ViewVectors(view)
    )
    np.testing.assert_allclose(logits, apart.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics, apart.statistics, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(vectors, apart.requested[PathVectors().name], rtol=1e-3, atol=1e-5)


def test_a_network_that_commutes_with_mirroring_moves_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    network = ResNet(1, num_classes=4, width=4)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data + module.weight.data.flip(3)
    watched = Normalized(network, (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    # Steps of two begin and end at the borders of an image of odd size, mirrored or not.
    images = torch.rand(4, 3, 17, 17, generator=torch.Generator().manual_seed(seed))
    own, mirrored, shifted = requested(watched, images, PathVectors(), ViewVectors(FLIP), ViewVectors(SHIFT))
    np.testing.assert_allclose(relative_distances(own, mirrored), 0, atol=1e-9)
    assert relative_distances(own, shifted).min() > 1e-7


@pytest.mark.parametrize("network", ["tiny_network", "wide_network"])
@pytest.mark.parametrize(
    "feature_request",
    [PathVectors(), PathVectors("residues"), ViewVectors(FLIP), ViewLogits(SHIFT), ViewStatistics(FLIP)],
    ids=lambda feature_request: feature_request.name,
)
def test_requests_are_differentiable_in_the_images(
    request: pytest.FixtureRequest, network: str, feature_request: FeatureRequest, images: Tensor
) -> None:
    watched: nn.Module = request.getfixturevalue(network)
    requested(watched, images, feature_request)  # in inference mode first: nothing that is kept may stem from there
    images.requires_grad_(True)
    extractor = FeatureExtractor(watched, discover(watched, SHAPE), None, [feature_request])
    values = feature_request(extractor.forward(images))
    (gradient,) = torch.autograd.grad(values.flatten(1).square().sum(), images)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.flatten(1).any(dim=1).all())


def test_images_do_not_depend_on_those_beside_them(tiny_network: nn.Module, images: Tensor) -> None:
    feature_requests = [PathVectors(), PathVectors("residues"), ViewVectors(FLIP), ViewStatistics(SHIFT)]
    together = extract_features(tiny_network, images, feature_requests=feature_requests)
    apart = Features.concatenated(
        [extract_features(tiny_network, image[None], feature_requests=feature_requests) for image in images]
    )
    for name, values in together.requested.items():
        np.testing.assert_allclose(values, apart.requested[name], rtol=1e-3, atol=1e-6)


def test_every_option_is_part_of_the_name() -> None:
    kinds = (ViewLogits, ViewStatistics, ViewVectors)
    all_of_them = [PathVectors("embeddings"), PathVectors("residues"), *(k(v) for k in kinds for v in (FLIP, SHIFT))]
    assert len({feature_request.name for feature_request in all_of_them}) == len(all_of_them)


def test_a_wide_vector_is_projected_by_itself(rng: np.random.Generator) -> None:
    vectors = torch.from_numpy(rng.normal(size=(70, 2 * WIDTH + 5)).astype(np.float32))
    widths = (WIDTH + 2, WIDTH + 2, 1)
    together = path_vectors._narrowed(vectors, widths)
    assert together.shape == (70, 2 * WIDTH + 1)
    for count in (1, 2, 33):
        assert torch.equal(path_vectors._narrowed(vectors[:count], widths), together[:count])
