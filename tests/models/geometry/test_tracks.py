"""Distances of tracks, by hand and against loops; the bound of an optimal map."""

import math

import numpy as np
import pytest
import torch

from models.errors import InputError
from models.geometry.tracks import track_distances


def test_two_tracks_in_the_plane() -> None:
    points = [torch.tensor(each) for each in ([[0.0, 0], [4, 0]], [[1.0, 0], [3, 0]], [[0.0, 1], [0, 4]])]
    found = track_distances(points)
    assert found.distance[0, 1] == pytest.approx(2)
    assert found.bound[0, 1] == pytest.approx(4 * 3 / 5)
    assert found.distance[0, 0] == found.bound[0, 0] == 0


def test_all_pairs_are_those_of_loops(rng: np.random.Generator) -> None:
    points = [torch.from_numpy(rng.normal(size=(6, 2, 3))) for _ in range(4)]
    found = track_distances(points)
    for one in range(6):
        for other in range(6):
            lengths = [float((point[one] - point[other]).norm()) for point in points]
            assert float(found.distance[one, other]) == pytest.approx(min(lengths), rel=1e-6)
            if one != other:
                bound = lengths[0] * lengths[-1] / math.hypot(lengths[0], lengths[-1])
                assert float(found.bound[one, other]) == pytest.approx(bound)


def test_straight_tracks_of_a_monotone_map_keep_the_bound(rng: np.random.Generator) -> None:
    """A symmetric positive definite matrix is the gradient of a convex function, so it is an optimal map."""
    root = rng.normal(size=(3, 3))
    start = torch.from_numpy(rng.normal(size=(20, 3)))
    end = start @ torch.from_numpy(root @ root.T)
    found = track_distances([start + t * (end - start) for t in np.linspace(0, 1, 50)])
    assert bool((found.distance >= found.bound - 1e-9).all())


def test_one_point_is_no_track() -> None:
    with pytest.raises(InputError, match="two points"):
        track_distances([torch.zeros(3, 2)])
