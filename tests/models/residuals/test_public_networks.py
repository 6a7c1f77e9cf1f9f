"""Public networks: the expected branches, and residues that equal the sum minus the skip connection."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.residuals import Discovery, StatisticsSpec, WithStatistics, discover, record_residues
from tests.models.public_networks import NETWORKS, PublicNetwork, skips_and_sums, vgg

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and on a busy machine threads wait long for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_equal_to_1e5(got: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Equal to 1e-5 of the largest number that took part: the subtraction itself rounds in units of the sum."""
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= 1e-5 * max(1.0, float(scale.abs().max()))


def whole(
    network: nn.Module, discovery: Discovery, images: Tensor, statistics_spec: StatisticsSpec
) -> tuple[Tensor, ...]:
    with torch.no_grad(), record_residues(network, discovery, statistics_spec=statistics_spec, keep=True) as recording:
        network(images)
    return recording.residues if statistics_spec.quantity == "residues" else recording.embeddings


@pytest.mark.parametrize("public", NETWORKS.values(), ids=NETWORKS.keys())
def test_residues_are_sum_minus_skip(public: PublicNetwork, seed: int) -> None:
    torch.manual_seed(seed)
    network = public.build().eval()
    images = torch.rand(2, 3, public.size, public.size)
    discovery = discover(network, (3, public.size, public.size))
    assert len(discovery.branches) == public.branches
    assert {branch.kind for branch in discovery.branches} == {"addition"}
    assert len({branch.name for branch in discovery.branches}) == public.branches

    pairs = skips_and_sums(network, images)
    residues = whole(network, discovery, images, StatisticsSpec())
    embeddings = whole(network, discovery, images, StatisticsSpec(quantity="embeddings"))
    assert len(pairs) == len(residues) == len(embeddings)
    for branch, (skip, total), residue, embedding in zip(discovery.branches, pairs, residues, embeddings, strict=True):
        assert residue.shape[1:] == branch.shape
        assert_equal_to_1e5(residue, total - skip, total)
        assert_equal_to_1e5(embedding, total, total)

    with torch.no_grad():
        logits = network(images)
        module = WithStatistics(network, discovery, image_shape=(3, public.size, public.size))
        assert module.why_not_rewritten is None
        its_logits, its_statistics = module(images)
    with torch.no_grad(), record_residues(network, discovery) as recording:
        watched = network(images)
    # Watching switches fused attention off, which rounds differently.
    torch.testing.assert_close(watched, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(its_logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(its_statistics, recording.statistics, rtol=1e-3, atol=1e-4)


def test_vgg_is_recorded_by_block_differences(seed: int) -> None:
    torch.manual_seed(seed)
    network = vgg([16, "M", 32, "M", 64, 64, "M", 64, 64, "M", 64, 64, "M"])
    images = torch.rand(2, 3, 32, 32)
    discovery = discover(network)
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    x = images
    with torch.no_grad():
        layers = list(network.features)
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                after = torch.relu(layers[index + 1](layer(x)))
                if layer.in_channels == layer.out_channels:
                    expected[f"features.{index}"] = (x, after)
                x = after
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x)
        x = torch.relu(network.classifier[0](network.avgpool(x).flatten(1)))
        expected["classifier.3"] = (x, torch.relu(network.classifier[3](x)))
    assert [branch.name for branch in discovery.branches] == list(expected)
    for statistics_spec in (StatisticsSpec(), StatisticsSpec(quantity="embeddings")):
        got = whole(network, discovery, images, statistics_spec)
        for tensor, (before, after) in zip(got, expected.values(), strict=True):
            assert_equal_to_1e5(tensor, after - before if statistics_spec.quantity == "residues" else after, after)
    assert WithStatistics(network, discovery).why_not_rewritten is None
