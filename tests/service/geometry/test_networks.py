"""The figures of paths, compared with direct computations, and unusual networks."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.fgm import FGM
from models.datasets.base import ImageDataset
from models.errors import AttackError, InputError, NetworkError
from models.geometry.line_shape import line_shape
from models.geometry.optimal_transport import optimal_transport
from models.geometry.tracks import track_distances
from models.geometry.vectors import cosines
from models.normalization import Normalized
from models.residuals import discover, record_residues
from service.geometry.networks import measuring
from service.geometry.networks.block_figures import draw_overview, draw_variation
from service.geometry.networks.clouds import SHARES
from service.geometry.networks.figures import draw_costs, draw_paths
from service.geometry.networks.measuring import Measured, measure
from service.geometry.networks.overview import as_table
from service.geometry.networks.settings import Disturbance, GeometrySettings
from tests.models.blocks import Chain, OtherFirst, Perceptron, PlainSum, SequenceFirst, Shrinking, SkipInPlace
from tests.service.geometry.conftest import FGM_SIZE, NOISE_SIZE, SETTINGS, built

# --- direct computations


def test_cost_shape_and_transport_equal_a_direct_computation(
    measured: Measured, chain: Chain, data: ImageDataset, seed: int
) -> None:
    images = data.tensor()
    residues, sums = chain.steps(images)
    found = measured.figures
    costs = sum(residue.double().flatten(1).square().sum(dim=1) for residue in residues)
    np.testing.assert_allclose(measured.costs["natural"], costs, rtol=1e-4)
    assert found["transport_cost"]["mean"] == pytest.approx(costs.mean().item(), rel=1e-4)
    assert found["transport_cost"]["q98"] == pytest.approx(np.quantile(costs, 0.98), rel=1e-4)
    per_dimension = costs.mean().item() / residues[0][0].numel()
    assert found["transport_cost_per_dimension"]["mean"] == pytest.approx(per_dimension, rel=1e-4)
    with record_residues(chain, discover(chain, data.image_shape)) as recording:
        chain(images)
    statistics = recording.statistics[:, ::2].mean(dim=0).tolist()
    assert [block["cost_per_dimension"] for block in found["blocks"]] == pytest.approx(statistics, rel=1e-4)

    path = [chain.stem(images), *sums]
    shape = line_shape(path)
    (stage,) = found["stages"]
    assert stage["line_shape_ratio"]["mean"] == pytest.approx(shape.ratio.mean().item(), rel=1e-4)
    assert stage["line_shape_score"]["median"] == pytest.approx(np.median(shape.score), rel=1e-4)
    assert stage["shares"] == pytest.approx(shape.shares.mean(dim=0).tolist(), rel=1e-4)
    assert sum(stage["shares"]) == pytest.approx(1)

    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:12])
    whole = optimal_transport(path[0][chosen], path[-1][chosen])
    assert stage["transport"] == pytest.approx(whole._asdict(), rel=1e-4)
    assert stage["transport_images"] == 12
    tracks = track_distances([point[chosen] for point in path])
    others = [(i, j) for i in range(12) for j in range(i) if data.labels[chosen[i]] != data.labels[chosen[j]]]
    nearer = [bool(tracks.distance[pair] < tracks.bound[pair]) for pair in others]
    assert (stage["tracks"]["pairs"], stage["tracks"]["below_bound"]) == (len(others), pytest.approx(np.mean(nearer)))
    last = optimal_transport(path[1][chosen], path[2][chosen])
    assert found["blocks"][1]["transport"] == pytest.approx(last._asdict(), rel=1e-4)


def test_the_cosine_uses_the_gradient_at_the_blocks_input(measured: Measured, chain: Chain, data: ImageDataset) -> None:
    labels = torch.from_numpy(data.labels)
    residues, _ = chain.steps(data.tensor())
    point = chain.stem(data.tensor())
    for number, block in enumerate(measured.figures["blocks"]):
        start = point.detach().requires_grad_()
        rest = start
        for later in chain.blocks[number:]:
            rest = later(rest)
        F.cross_entropy(chain.head(rest.mean(dim=(2, 3))), labels, reduction="sum").backward()
        expected = cosines([residues[number]], [start.grad]).mean().item()
        assert block["cosine"]["mean"] == pytest.approx(expected, abs=1e-5)
        ratio = (residues[number].flatten(1).norm(dim=1) / point.flatten(1).norm(dim=1)).mean().item()
        assert block["ratio"]["mean"] == pytest.approx(ratio, rel=1e-4)
        point = chain.blocks[number](point)


def test_variation_rates_and_outliers_equal_a_direct_computation(
    measured: Measured, chain: Chain, data: ImageDataset
) -> None:
    images, labels = data.tensor(), torch.from_numpy(data.labels)
    attacked = FGM(epsilon=FGM_SIZE)(chain, images, labels)
    found = measured.figures["disturbed"][0]
    _, natural = chain.steps(images)
    residues, disturbed = chain.steps(attacked)
    rates = [
        ((b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).mean().item()
        for a, b in zip(natural, disturbed, strict=True)
    ]
    assert found["variation_rate"] == pytest.approx(rates, rel=1e-4)
    right, still = (chain(batch).argmax(dim=1) == labels for batch in (images, attacked))
    assert found["accuracy"] == pytest.approx(still.float().mean().item())
    assert found["successful"] == int((right & ~still).sum())
    low, high = np.quantile(measured.costs["natural"], (0.02, 0.98))
    costs = sum(residue.double().flatten(1).square().sum(dim=1) for residue in residues).numpy()
    np.testing.assert_allclose(measured.costs[found["name"]], costs, rtol=1e-4)
    assert found["outside"] == pytest.approx(np.mean((costs < low) | (costs > high)), abs=1.5 / len(data))


def test_noise_of_a_larger_deviation_varies_a_path_more(chain: Chain, data: ImageDataset, seed: int) -> None:
    sizes = (0.01, 0.05, 0.2)
    settings = GeometrySettings(disturbances=tuple(Disturbance("noise", size) for size in sizes), seed=seed)
    rates = [
        each["variation_rate"] for each in measure("c", chain, data, settings, progress=False).figures["disturbed"]
    ]
    for smaller, larger in pairwise(rates):
        assert all(a < b for a, b in zip(smaller, larger, strict=True))


def test_a_block_without_all_its_units_is_as_accurate_as_the_network_without_it(
    measured: Measured, chain: Chain, data: ImageDataset, seed: int
) -> None:
    (found,) = measured.figures["important_units"]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:12])
    labels, images = torch.from_numpy(data.labels[chosen]), data.tensor(chosen)
    assert found["block"] == 0
    assert found["shares"] == list(SHARES)
    assert found["units"][-1] == 4 * 8 * 8
    skipped = chain.head(chain.blocks[1](chain.stem(images)).mean(dim=(2, 3)))
    assert found["accuracy"][0] == pytest.approx((chain(images).argmax(dim=1) == labels).float().mean().item())
    assert found["accuracy"][-1] == pytest.approx((skipped.argmax(dim=1) == labels).float().mean().item())


def test_the_batch_size_does_not_change_figures(
    measured: Measured, chain: Chain, data: ImageDataset, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_MAX_BATCH", 7)
    again = measure("chain", chain, data, GeometrySettings(**SETTINGS, seed=seed), progress=False)
    for name, costs in measured.costs.items():
        np.testing.assert_allclose(again.costs[name], costs, rtol=1e-3)
    np.testing.assert_allclose(again.paths[0], measured.paths[0], rtol=1e-3, atol=1e-4)
    assert again.figures["stages"][0]["transport"] == pytest.approx(
        measured.figures["stages"][0]["transport"], rel=1e-4
    )
    for one, other in zip(again.figures["disturbed"], measured.figures["disturbed"], strict=True):
        assert one["variation_rate"] == pytest.approx(other["variation_rate"], rel=1e-3)


def test_the_drawn_images_cover_all_classes() -> None:
    labels = np.array([2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0])
    drawn = measuring._first_of_each_class(labels)
    assert drawn.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14]


# --- other kinds of network


def test_a_network_without_additions_has_paths_and_a_remark(data: ImageDataset, seed: int) -> None:
    torch.manual_seed(seed)
    found = measure("plain", built(Perceptron()), data, GeometrySettings(**SETTINGS), progress=False).figures
    assert {block["kind"] for block in found["blocks"]} == {"block_difference"}
    assert any("residual additions" in remark for remark in found["remarks"])
    assert found["stages"][0]["line_shape_ratio"]["mean"] >= 1


def test_a_missing_gradient_is_reported(data: ImageDataset, seed: int) -> None:
    torch.manual_seed(seed)
    measured = measure("in place", built(Chain(SkipInPlace)), data, GeometrySettings(), progress=False)
    cosine = measured.figures["blocks"][1]["cosine"]
    assert cosine["mean"] is None
    assert cosine["undefined"] == len(data)
    assert any("No gradient of the loss could be taken" in remark for remark in measured.figures["remarks"])
    draw_overview([measured]).savefig("/dev/null", format="svg")
    assert draw_variation([measured]) is None


@pytest.mark.parametrize("build", [SequenceFirst, lambda: Chain(OtherFirst)], ids=["batch second", "factors"])
def test_the_cosine_exists_for_other_axes_and_factors(
    build: Callable[[], nn.Module], data: ImageDataset, seed: int
) -> None:
    torch.manual_seed(seed)
    found = measure("network", built(build()), data, GeometrySettings(), progress=False).figures
    assert all(block["cosine"]["defined"] == len(data) for block in found["blocks"])
    assert not any("gradient" in remark for remark in found["remarks"])


class WithoutGradient(Chain):
    """Only its classifier is differentiable."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            points = self.stem(images)
            for block in self.blocks:
                points = block(points)
        logits: Tensor = self.head(points.mean(dim=(2, 3)))
        return logits


class Overwriting(PlainSum):
    """Changes in place a tensor that the derivative of its tanh needs."""

    def branch(self, x: Tensor) -> Tensor:
        out = super().branch(x).tanh()
        doubled = 2 * out
        out += 1
        return doubled


@pytest.mark.parametrize("build", [lambda: WithoutGradient(PlainSum), lambda: Chain(Overwriting)])
def test_a_network_without_a_gradient_is_refused_by_fgm_and_measured_without_it(
    build: Callable[[], Chain], data: ImageDataset, seed: int
) -> None:
    torch.manual_seed(seed)
    network = built(build())
    with pytest.raises(AttackError, match="--epsilon none"):
        measure("without", network, data, GeometrySettings(**SETTINGS), progress=False)
    settings = GeometrySettings(disturbances=(Disturbance("noise", NOISE_SIZE),))
    found = measure("without", network, data, settings, progress=False).figures
    assert all(block["cosine"]["mean"] is None and block["ratio"]["mean"] > 0 for block in found["blocks"])
    (remark,) = [each for each in found["remarks"] if "gradient" in each]
    assert remark.startswith("No gradient of the loss could be taken at the input of block 1, 2")
    assert ("inplace" in remark) == (type(network) is Chain)


def test_a_network_with_zero_residues_has_no_shape_and_is_drawn(chain: Chain, data: ImageDataset) -> None:
    for block in chain.blocks:
        nn.init.zeros_(block.norm.weight)
    measured = measure("still", chain, data, GeometrySettings(**SETTINGS), progress=False)
    (stage,) = measured.figures["stages"]
    assert stage["line_shape_ratio"]["mean"] is None
    assert stage["line_shape_ratio"]["undefined"] == len(data)
    assert stage["transport"] == {"score": 1.0, "wasserstein": 0.0, "displacement": 0.0}
    assert measured.figures["transport_cost"]["mean"] == 0
    (remark,) = [each for each in measured.figures["remarks"] if "gradient" in each]
    assert remark.startswith("No cosine at block 1, 2: its residue or")
    assert "–" in as_table([measured.figures, measured.figures])
    for figure in (draw_overview([measured, measured]), draw_costs(measured), draw_paths(measured)):
        figure.savefig("/dev/null", format="svg")


def test_weights_that_are_not_finite_are_refused(chain: Chain, data: ImageDataset) -> None:
    chain.blocks[1].conv.bias.fill_(math.nan)
    with pytest.raises(NetworkError, match="finite"):
        measure("broken", chain, data, GeometrySettings(), progress=False)


def test_a_network_without_blocks_and_one_image_are_refused(data: ImageDataset, chain: Chain) -> None:
    with pytest.raises(NetworkError, match="residual additions"):
        measure("none", built(Shrinking()), data, GeometrySettings(), progress=False)
    with pytest.raises(InputError, match="at least 2 images"):
        measure("one", chain, data.take(np.array([0])), GeometrySettings(), progress=False)


def test_block_names_are_those_of_the_users_network(chain: Chain, data: ImageDataset) -> None:
    wrapped = built(Normalized(chain, (0.5,) * 3, (0.25,) * 3))
    found = measure("wrapped", wrapped, data, GeometrySettings(), progress=False).figures["blocks"]
    assert [block["name"] for block in found] == [branch.name for branch in discover(chain, (3, 8, 8)).branches]


def test_the_page_explains_every_key_of_the_report(measured: Measured) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "geometry.md").read_text(encoding="utf-8")
    found = measured.figures
    keys = {*found, *found["blocks"][0], *found["stages"][0], *found["disturbed"][0], *found["important_units"][0]}
    keys |= {*found["transport_cost"], *found["stages"][0]["transport"]}
    assert not [key for key in sorted(keys) if f"`{key}`" not in text]
