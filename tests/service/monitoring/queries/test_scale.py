"""The radius and margin scale of an artifact."""

import numpy as np
import pytest

from models.errors import ArtifactError
from service.monitoring.queries.descriptors import descriptors
from service.monitoring.queries.scale import FIXED_RADIUS, MIN_REFERENCES, QueryScale, measure_scale


def coarse(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.kron(rng.integers(0, 256, (count, 3, 4, 4), np.uint8), np.ones((1, 1, 2, 2), np.uint8))


def test_few_images_give_the_fixed_radius(rng: np.random.Generator) -> None:
    logits = np.tile([13.0, 0.0], (50, 1))
    assert measure_scale(coarse(rng, 50), logits, seed=0) == QueryScale(FIXED_RADIUS, 2.0, 0)


def test_the_radius_is_a_share_of_a_small_distance_between_neighbours(rng: np.random.Generator) -> None:
    images = coarse(rng, MIN_REFERENCES)
    scale = measure_scale(images, np.tile([6.5, 0.0], (9, 1)), seed=0)
    described = descriptors(images).astype(float)
    squares = (described**2).sum(1)
    squared = squares[:, None] + squares - 2 * described @ described.T
    np.fill_diagonal(squared, np.inf)
    expected = 0.7 * np.quantile(np.sqrt(squared.min(1)), 1e-3)
    assert scale.radius == pytest.approx(max(FIXED_RADIUS, expected), rel=1e-3)
    assert (scale.margin_scale, scale.images) == (1.0, MIN_REFERENCES)


@pytest.mark.parametrize("logits", [np.zeros((5, 3)), np.ones((5, 1)), np.zeros((0, 2))])
def test_margins_of_zero_do_not_scale(logits: np.ndarray, rng: np.random.Generator) -> None:
    assert measure_scale(coarse(rng, 3), logits, seed=0).margin_scale == 1.0


def test_the_scale_is_read_from_the_provenance() -> None:
    scale = QueryScale(9.5, 0.5, 4000)
    assert QueryScale.of_provenance({"queries": scale.to_json()}) == scale
    assert QueryScale.of_provenance({}) == QueryScale()


@pytest.mark.parametrize(
    "changed", [{"radius": -1.0}, {"radius": 0}, {"margin_scale": float("inf")}, {"images": "9"}, {"more": 1}, None]
)
def test_other_fields_are_refused(changed: dict[str, object] | None) -> None:
    fields = changed and {**QueryScale().to_json(), **changed}
    with pytest.raises(ArtifactError, match="radius"):
        QueryScale.of_provenance({"queries": fields})
