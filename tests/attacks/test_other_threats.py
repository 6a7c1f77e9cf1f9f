"""Attacks without a ball around each image: few values, one perturbation for all, rotations and shifts."""

import pytest
import torch
from torch import Tensor, nn

from attacks.jsma import JSMA, _best_pairs
from attacks.spatial_transformation import SpatialTransformation, transformed
from attacks.universal_perturbation import UniversalPerturbation
from models.errors import InputError
from tests.attacks.digits import Digits

pytestmark = pytest.mark.slow


def _fooled(digits: Digits, attacked: Tensor) -> Tensor:
    with torch.no_grad():
        return digits.network(attacked).argmax(1) != digits.labels


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_most_salient_pair_is_found_without_trying_all(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 32, 40, generator=generator) - 0.5
    free = torch.rand(32, 40, generator=generator) < 0.7
    free[:, :2] = True
    pairs = _best_pairs(a, b, free, candidates=40)
    rising, falling = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    admissible = (rising > 0) & (falling > 0) & free[:, :, None] & free[:, None] & ~torch.eye(40, dtype=torch.bool)
    expected = torch.where(admissible, rising * falling, -torch.inf).flatten(1).amax(1)
    assert admissible.flatten(1).any(1).any()
    first, second = pairs.T
    assert (first != second).all()
    rows = torch.arange(32)
    assert free[rows, first].all()
    assert free[rows, second].all()
    found = rising[rows, first, second] * falling[rows, first, second]
    some = expected > -torch.inf
    torch.testing.assert_close(found[some], expected[some])
    # Where no pair is admissible, the one that raises the sum most.
    sums = torch.where(free, a + b, -torch.inf).topk(2, dim=1).values.sum(1)
    torch.testing.assert_close((rising + falling)[rows, first, second][~some], sums[~some])


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
def test_jsma_moves_few_values_one_way(theta: float, digits_network: Digits) -> None:
    network, images, labels = digits_network._replace(
        images=digits_network.images[:16], labels=digits_network.labels[:16]
    )
    attacked = JSMA(theta=theta, gamma=0.05)(network, images, labels)
    assert (attacked != images).flatten(1).sum(1).max() <= int(0.05 * images[0].numel())
    assert ((attacked - images) * theta >= 0).all()
    with torch.no_grad():
        wrong = network(images).argmax(1) != labels
    assert torch.equal(attacked[wrong], images[wrong])


@pytest.mark.parametrize("theta", [1 / 255, -1 / 255])
def test_jsma_ends_at_the_smallest_step(theta: float) -> None:
    """On a network that no step turns: values that may move go to their end, two at a time, and no pass is more."""
    passes = 0

    class Deaf(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            return torch.tensor([9.0, 0.0]) + 1e-6 * images.flatten(1)[:, :2] * torch.tensor([-theta, theta]).sign()

    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    attacked = JSMA(theta=theta, gamma=0.1)(Deaf(), images, labels)  # 4 of 48 values
    end = 1.0 if theta > 0 else 0.0
    assert ((attacked == end).flatten(1).sum(1) >= 2).all()
    assert (attacked != images).flatten(1).sum(1).max() <= 4
    assert passes <= 4 * 256 // 2 + 4  # a few more: the count of classes, the runner-up


def test_jsma_through_art_and_its_options(digits_network: Digits) -> None:
    small = digits_network._replace(images=digits_network.images[:6], labels=digits_network.labels[:6])
    arts, ours = JSMA(engine="art", target=3)(*small), JSMA(target=3)(*small)
    with torch.no_grad():
        predicted = [small.network(attacked).argmax(1) for attacked in (arts, ours)]
    wanted = torch.where(small.labels == 3, 4, 3)
    assert all((found == wanted).sum() >= 4 for found in predicted)
    for options, message in (
        ({"theta": 0.0}, "theta"),
        ({"theta": 2.0}, "theta"),
        ({"theta": 1e-9}, "1/255"),
        ({"theta": -0.003}, "1/255"),
        ({"gamma": 1.5}, "gamma"),
    ):
        with pytest.raises(InputError, match=message):
            JSMA(**options)
    with pytest.raises(InputError, match="candidates"):
        JSMA(candidates=1)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.3), ("l2", 5.0)])
def test_one_perturbation_serves_all(norm: str, epsilon: float, digits_network: Digits) -> None:
    network, images, labels = digits_network
    shrunk = 0.3 + 0.4 * images  # so that nothing is clipped, and the perturbation can be read off
    with torch.no_grad():
        labels = network(shrunk).argmax(1)
    attack = UniversalPerturbation(epsilon=min(epsilon, 0.29) if norm == "linf" else epsilon, norm=norm, steps=30)  # type: ignore[arg-type]
    attacked = attack(network, shrunk, labels)
    if norm == "linf":
        difference = attacked - shrunk
        torch.testing.assert_close(difference, difference[:1].expand_as(difference), atol=1e-6, rtol=0)
    with torch.no_grad():
        fooled = (network(attacked).argmax(1) != labels).float().mean()
        noise = epsilon * torch.randn(shrunk[:1].shape, generator=torch.Generator().manual_seed(0)).sign()
        by_noise = (network((shrunk + noise).clamp(0, 1)).argmax(1) != labels).float().mean()
    assert fooled >= 0.3
    if norm == "linf":
        assert fooled >= by_noise - 0.1


def test_other_images_another_perturbation(digits_network: Digits) -> None:
    network, images, labels = digits_network
    whole = UniversalPerturbation(epsilon=0.2, steps=5)(network, images, labels)
    split = UniversalPerturbation(epsilon=0.2, steps=5, batch_size=8)(network, images, labels)
    assert not torch.allclose(whole, split, atol=1e-3)


def test_rotations_and_shifts_are_correct(generator: torch.Generator) -> None:
    images = torch.rand(3, 3, 8, 8, generator=generator)
    zero, ninety, eighth = torch.zeros(3), torch.full((3,), 90.0), torch.full((3,), 1 / 8)
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(transformed(images, zero, zero, zero), images, **close)
    torch.testing.assert_close(transformed(images, ninety, zero, zero), torch.rot90(images, 1, (2, 3)), **close)
    down, right = transformed(images, zero, eighth, zero), transformed(images, zero, zero, eighth)
    torch.testing.assert_close(down[:, :, 1:], images[:, :, :-1], **close)
    torch.testing.assert_close(right[..., 1:], images[..., :-1], **close)
    assert down[:, :, 0].abs().max() < 1e-4
    # First the turn, then the shift.
    both = transformed(images, ninety, eighth, zero)
    torch.testing.assert_close(both[:, :, 1:], torch.rot90(images, 1, (2, 3))[:, :, :-1], **close)
    wide = torch.rand(1, 3, 6, 12, generator=generator)
    torch.testing.assert_close(transformed(wide, torch.tensor([180.0]), zero[:1], zero[:1]), wide.flip(2, 3), **close)
    square = torch.zeros(1, 1, 6, 12)
    square[..., 1:5, 4:8] = 1.0  # four by four about the centre: a quarter turn leaves it
    torch.testing.assert_close(transformed(square, ninety[:1], zero[:1], zero[:1]), square, **close)


def test_a_finer_grid_and_more_draws_fool_more(digits_network: Digits) -> None:
    none = SpatialTransformation(rotation=0, translation=0)(*digits_network)
    torch.testing.assert_close(none, digits_network.images, atol=1e-4, rtol=0)
    coarse = SpatialTransformation(angles=3, shifts=1)(*digits_network)
    fine = SpatialTransformation(angles=5, shifts=3)(*digits_network)  # holds the coarse grid
    assert _fooled(digits_network, fine).sum() >= _fooled(digits_network, coarse).sum()
    few, many = (SpatialTransformation(draws=draws)(*digits_network) for draws in (2, 12))
    assert (_fooled(digits_network, many) | ~_fooled(digits_network, few)).all()


def test_random_rotations_belong_to_the_image(digits_network: Digits) -> None:
    whole = SpatialTransformation(draws=3)(*digits_network)
    split = SpatialTransformation(draws=3, batch_size=9)(*digits_network)
    torch.testing.assert_close(whole, split, atol=1e-5, rtol=0)
    assert not torch.allclose(whole, SpatialTransformation(draws=3, seed=1)(*digits_network), atol=1e-3)


def test_spatial_options() -> None:
    for options in ({"rotation": 200.0}, {"translation": 1.5}, {"rotation": -1.0}, {"draws": 0}, {"angles": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            SpatialTransformation(**options)  # type: ignore[arg-type]
