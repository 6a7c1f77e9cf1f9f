"""The operations of an exported graph, before the export: they compute what the network in torch computes."""

import copy

import pytest
import torch
from torch import Tensor

from models.engines import EngineSource, exporting
from models.residuals import StatisticsSpec, WithPooled, discover

from ...conftest import SEED
from .conftest import SHAPE


@pytest.mark.parametrize("replaced", [exporting._BY_POOLING, exporting._IN_CELLS], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("directions", [0, 1])
def test_the_operations_of_a_graph_compute_the_same(
    source: EngineSource, images: Tensor, replaced: dict[object, object], directions: int
) -> None:
    rewritten = WithPooled(
        source.network, discover(source.network, SHAPE), statistics_spec=StatisticsSpec(directions=directions),
        image_shape=SHAPE,
    ).eval()  # fmt: skip
    with torch.inference_mode():
        expected = rewritten(images)
        got = exporting._plain(exporting._Flat(copy.deepcopy(rewritten)), replaced)(images)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (8, 8), (14, 14), (32, 32), (12, 30), (56, 56)])
def test_means_in_cells_are_means(shape: tuple[int, int]) -> None:
    maps = torch.rand(3, 5, *shape, generator=torch.Generator().manual_seed(SEED))
    torch.testing.assert_close(exporting._means_in_cells(maps), maps.mean(dim=(2, 3), keepdim=True))


def test_a_residue_of_zeros_has_cosine_zero() -> None:
    zeros = torch.zeros(2, 4, 8, 8)
    assert not exporting._finish_by_pooling([exporting._reduce_by_pooling(zeros)]).any()
