"""HopSkipJump and Boundary on half-spaces, for which the nearest adversarial point is known."""

from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

from attacks.common.noise import ImageNoise
from attacks.decision_based.boundary import boundary
from attacks.decision_based.hop_skip_jump import hop_skip_jump
from attacks.decision_based.search import DecisionResult

pytestmark = pytest.mark.slow

SHAPE = (3, 6, 6)
COUNT = 5


class _Search(Protocol):
    def __call__(self, decide: Any, images: Tensor, starts: Tensor, **options: Any) -> DecisionResult: ...


def _quick_hop_skip_jump(decide: Any, images: Tensor, starts: Tensor, **options: Any) -> DecisionResult:
    return hop_skip_jump(decide, images, starts, **({"steps": 4} | options))


def _quick_boundary(decide: Any, images: Tensor, starts: Tensor, **options: Any) -> DecisionResult:
    return boundary(decide, images, starts, **({"steps": 150} | options))


searches = pytest.mark.parametrize("search", [_quick_hop_skip_jump, _quick_boundary])


class HalfSpaces:
    """Adversarial is what lies further than `reach` along `normal`; every image has a reach of its own.

    Attributes:
        queries: points per image.
        largest: most points in one call.
    """

    def __init__(self, seed: int, shape: tuple[int, ...] = SHAPE) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = 0.4 + 0.2 * torch.rand((COUNT, *shape), generator=generator)
        normal = torch.randn(shape, generator=generator)
        self.normal = normal / normal.norm()
        self.reach = 0.2 + 0.3 * torch.rand(COUNT, generator=generator)
        noise = 0.1 * torch.randn((COUNT, *shape), generator=generator)
        self.starts = (self.images + 1.5 * self.normal + noise).clamp(0, 1)
        self.queries = torch.zeros(COUNT, dtype=torch.int64)
        self.largest = 0

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        self.queries += torch.bincount(rows, minlength=COUNT)
        self.largest = max(self.largest, len(points))
        assert points.min() >= 0
        assert points.max() <= 1
        along = (points - self.images[rows]).flatten(1).double() @ self.normal.flatten().double()
        return along > self.reach[rows]


@pytest.fixture
def spaces(seed: int) -> HalfSpaces:
    made = HalfSpaces(seed)
    rows = torch.arange(COUNT)
    assert made(made.starts, rows).all()
    assert not made(made.images, rows).any()
    made.queries.zero_()
    return made


def test_hop_skip_jump_comes_near_the_nearest_point(spaces: HalfSpaces) -> None:
    found = hop_skip_jump(spaces, spaces.images, spaces.starts, steps=12)
    assert found.found.all()
    assert (found.distance >= spaces.reach * (1 - 1e-6)).all()
    assert (found.distance <= spaces.reach * 1.15).all()


def test_hop_skip_jump_comes_near_the_nearest_point_in_linf(spaces: HalfSpaces) -> None:
    found = hop_skip_jump(spaces, spaces.images, spaces.starts, norm="linf", steps=15)
    nearest = spaces.reach / spaces.normal.abs().sum()  # all values move by the same amount
    assert found.found.all()
    assert (found.distance >= nearest * (1 - 1e-5)).all()
    assert (found.distance <= nearest * 1.35).all()
    assert torch.equal(found.distance, (found.images.double() - spaces.images.double()).flatten(1).abs().amax(1))


def test_boundary_comes_near_the_nearest_point(spaces: HalfSpaces) -> None:
    found = boundary(spaces, spaces.images, spaces.starts, steps=1500)
    assert found.found.all()
    assert (found.distance >= spaces.reach * (1 - 1e-6)).all()
    assert (found.distance <= spaces.reach * 1.05).all()


def test_several_candidates_per_step(spaces: HalfSpaces) -> None:
    one, four = (boundary(spaces, spaces.images, spaces.starts, steps=100, candidates=n) for n in (1, 4))
    assert (four.distance < one.distance).double().mean() > 0.5
    assert (four.queries > 3 * one.queries).all()


@searches
def test_results_are_on_the_adversarial_side(search: _Search, spaces: HalfSpaces) -> None:
    found = search(spaces, spaces.images, spaces.starts)
    assert spaces(found.images, torch.arange(COUNT)).all()
    assert torch.equal(
        found.distance, (found.images.double() - spaces.images.double()).flatten(1).square().sum(1) ** 0.5
    )


@searches
def test_queries_are_counted_per_image(search: _Search, spaces: HalfSpaces) -> None:
    found = search(spaces, spaces.images, spaces.starts)
    assert torch.equal(found.queries, spaces.queries)


def test_hop_skip_jump_makes_the_documented_number_of_queries(spaces: HalfSpaces) -> None:
    """2 to begin, 11 halvings of a search (√108 / 0.01 < 2^11), then in each step probes, jumps, halvings."""
    found = hop_skip_jump(spaces, spaces.images, spaces.starts, steps=3, first_queries=50, max_queries=80)
    without_jumps = 2 + 11 + (50 + 70 + 80) + 3 * 11
    assert ((found.queries > without_jumps) & (found.queries <= without_jumps + 3 * 30)).all()


@searches
@pytest.mark.parametrize("limit", [1, 2, 9, 40, 200, 333])
def test_the_limit_of_queries_holds(search: _Search, spaces: HalfSpaces, limit: int) -> None:
    found = search(spaces, spaces.images, spaces.starts, total_queries=limit)
    assert (found.queries <= limit).all()
    assert torch.equal(found.queries, spaces.queries)
    assert found.found.all() == (limit > 1)  # one for the image, one for its start
    if limit > 1:
        assert spaces(found.images, torch.arange(COUNT)).all()
        assert (
            found.distance <= (spaces.starts.double() - spaces.images.double()).flatten(1).norm(dim=1) * (1 + 1e-9)
        ).all()


@searches
def test_more_steps_are_never_worse(search: _Search, spaces: HalfSpaces) -> None:
    before = torch.full((COUNT,), torch.inf, dtype=torch.float64)
    for steps in (1, 2, 5, 9):
        distance = search(spaces, spaces.images, spaces.starts, steps=steps).distance
        assert (distance <= before).all()
        before = distance


@searches
def test_images_without_an_adversarial_start_are_unchanged(search: _Search, spaces: HalfSpaces) -> None:
    starts = spaces.starts.clone()
    starts[[1, 3]] = spaces.images[[1, 3]] - 0.1
    found = search(spaces, spaces.images, starts)
    assert found.found.tolist() == [True, False, True, False, True]
    assert torch.equal(found.images[[1, 3]], spaces.images[[1, 3]])
    assert found.distance[[1, 3]].tolist() == [0, 0]
    assert found.queries[[1, 3]].tolist() == [2, 2]


@searches
def test_adversarial_images_are_unchanged(search: _Search, spaces: HalfSpaces) -> None:
    spaces.reach[2] = -1
    found = search(spaces, spaces.images, spaces.starts)
    assert found.found.all()
    assert torch.equal(found.images[2], spaces.images[2])
    assert found.distance[2] == 0
    assert found.queries[2] == 1


@searches
def test_nothing_to_do(search: _Search, spaces: HalfSpaces) -> None:
    found = search(spaces, spaces.images, spaces.images)
    assert not found.found.any()
    assert torch.equal(found.images, spaces.images)


@searches
def test_other_images_of_a_call_do_not_change_results(search: _Search, spaces: HalfSpaces) -> None:
    together = search(spaces, spaces.images, spaces.starts, seed=4)
    for row in range(COUNT):
        alone = search(
            lambda points, rows, row=row: spaces(points, rows + row),
            spaces.images[row : row + 1],
            spaces.starts[row : row + 1],
            generators=ImageNoise(4, row).generators(1, spaces.images.device),
        )
        torch.testing.assert_close(alone.images[0], together.images[row], rtol=0, atol=1e-6)
        assert alone.queries[0] == together.queries[row]


@searches
def test_the_size_of_batches_does_not_matter(search: _Search, spaces: HalfSpaces) -> None:
    expected = search(spaces, spaces.images, spaces.starts)
    for size in (3, 70):
        spaces.largest = 0
        found = search(spaces, spaces.images, spaces.starts, forward_batch=size)
        assert spaces.largest <= size
        torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-6)
        assert torch.equal(found.queries, expected.queries)


@searches
def test_the_seed_determines_the_result(search: _Search, spaces: HalfSpaces) -> None:
    torch.manual_seed(0)
    first = search(spaces, spaces.images, spaces.starts, seed=1)
    torch.manual_seed(1)
    again = search(spaces, spaces.images, spaces.starts, seed=1)
    other = search(spaces, spaces.images, spaces.starts, seed=2)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


@searches
@pytest.mark.parametrize("wide", [False, True])
def test_vectors_in_a_box_of_their_own(search: _Search, seed: int, wide: bool) -> None:
    """Rows of features: no image axes, other bounds in every column, or none."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.linspace(-3, -1, 7), torch.linspace(1, 20, 7)
    if wide:
        low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    features = torch.rand((4, 7), generator=generator)
    starts = features + torch.tensor([0.0] * 6 + [15.0])

    def decide(points: Tensor, rows: Tensor) -> Tensor:
        assert ((points >= low) & (points <= high)).all()
        return (points - features[rows])[:, 6] > 1

    found = search(decide, features, starts, bounds=(low, high))
    assert found.found.all()
    assert (found.distance >= 1).all()
    assert (found.distance < 15).all()
    assert found.distance.median() < 3
