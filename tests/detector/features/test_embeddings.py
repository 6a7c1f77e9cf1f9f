"""Pooled embeddings: the selected blocks, the padding, and the extraction in the same forward pass."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.features.embeddings import PooledEmbeddings, chosen_blocks, padded
from models.features import FeatureExtractor, extract_features
from models.residuals import StatisticsSpec, discover, record_residues


def test_stages_end_where_the_shape_changes() -> None:
    shapes = [(4, 8, 8), (4, 8, 8), (8, 4, 4), (8, 2, 2), (8, 2, 2)]
    assert chosen_blocks(shapes, "stages") == [1, 2, 4]
    assert chosen_blocks(shapes, "blocks") == [0, 1, 2, 3, 4]


def test_narrow_embeddings_are_filled_up_with_zeros() -> None:
    vectors = torch.tensor([[1.0, 2, 2, 2, 3]] * 2)
    together = padded(vectors, (1, 3, 1), (0, 1))
    assert together.tolist() == [[[1, 0, 0], [2, 2, 2]]] * 2


@pytest.mark.parametrize("layers", ["blocks", "stages"])
def test_embeddings_are_measured_beside_logits_and_statistics(
    tiny_network: nn.Module, rng: np.random.Generator, layers: str
) -> None:
    images = rng.random((5, 3, 16, 16), dtype=np.float32)
    feature_request = PooledEmbeddings(layers)  # type: ignore[arg-type]
    features = extract_features(tiny_network, images, feature_requests=[feature_request], batch_size=2)
    discovery, statistics_spec = discover(tiny_network, (3, 16, 16)), StatisticsSpec(quantity="embeddings")
    with (
        torch.no_grad(),
        record_residues(tiny_network, discovery, statistics_spec=statistics_spec, keep=True) as recording,
    ):
        tiny_network(torch.from_numpy(images))
    means = [embedding.mean(dim=(2, 3)) for embedding in recording.embeddings]
    expected = padded(torch.cat(means, dim=1), discovery.pooled_widths)
    assert discovery.pooled_widths == tuple(each.shape[1] for each in means)
    found = features.requested[feature_request.name]
    assert found.shape == (5, 3, 16)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    plain = extract_features(tiny_network, images, batch_size=2)
    assert np.array_equal(features.logits, plain.logits)
    assert np.array_equal(features.statistics, plain.statistics)
    assert plain.requested == {}


def test_layers_have_names_of_their_own() -> None:
    assert PooledEmbeddings("blocks").name != PooledEmbeddings("stages").name


def test_embeddings_have_gradients_where_the_pass_has(tiny_network: nn.Module, seed: int) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    discovery, embeddings = discover(tiny_network, (3, 16, 16)), PooledEmbeddings()
    requested: Tensor = embeddings(FeatureExtractor(tiny_network, discovery, None, [embeddings]).forward(images))
    (gradient,) = torch.autograd.grad(requested.square().sum(), images)
    assert bool((gradient != 0).any())
