"""The mean over the positions in an image, for each layout of an embedding."""

import pytest
import torch

from models.residuals import pooled


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 5, 4, 4), (2, 3)),
        ((2, 4, 4, 4), (2, 3)),
        ((2, 5, 3, 4), (2, 3)),
        ((2, 4, 4, 5), (1, 2)),
        ((2, 7, 5), (1,)),
        ((2, 5), ()),
    ],
)
def test_positions_are_averaged_and_channels_are_kept(shape: tuple[int, ...], axes: tuple[int, ...], seed: int) -> None:
    embedding = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    expected = embedding.mean(dim=axes) if axes else embedding
    torch.testing.assert_close(pooled(embedding), expected)
    assert pooled(embedding.half()).dtype == torch.float32
