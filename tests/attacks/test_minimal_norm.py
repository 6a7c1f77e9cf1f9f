"""DeepFool, Carlini-Wagner and FAB: distances of their images, and their options."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attacks.deepfool
from attacks.carlini_wagner import CarliniWagner
from attacks.common.base import Attack
from attacks.common.norms import Norm, perturbation_norms
from attacks.deepfool import DeepFool
from attacks.fab import FAB
from models.errors import InputError
from tests.attacks.digits import Digits

pytestmark = pytest.mark.slow


def _sizes(images: Tensor, attacked: Tensor, norm: Norm) -> Tensor:
    return perturbation_norms(images, attacked)[0 if norm == "linf" else 1]


def _first(digits: Digits, count: int) -> Digits:
    return digits._replace(images=digits.images[:count], labels=digits.labels[:count])


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


def _lead(logits: Tensor, classes: Tensor) -> Tensor:
    """Lead of the class over all others."""
    own = logits.gather(1, classes[:, None])[:, 0]
    return own - logits.scatter(1, classes[:, None], -torch.inf).amax(1)


@pytest.fixture
def linear(seed: int) -> Digits:
    """A linear classifier and grey images so near its boundaries that no pixel reaches 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 5))
    images = 0.4 + 0.2 * torch.rand(8, 3, 6, 6, generator=generator)
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(5, 3 * 6 * 6, generator=generator))
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)
        labels = network(images).argmax(1)
    return Digits(network, images, labels)


def _distance(linear: Digits, norm: Norm) -> Tensor:
    """To the nearest boundary of a linear classifier, in closed form"""
    weight = linear.network[1].weight.detach().double()  # type: ignore[index, union-attr]
    logits = _logits(linear.network, linear.images).double()
    slopes = weight[None] - weight[linear.labels][:, None]
    rates = slopes.norm(dim=2) if norm == "l2" else slopes.abs().sum(2)
    lags = logits.gather(1, linear.labels[:, None]) - logits
    return torch.where(rates > 0, lags / rates.clamp_min(1e-9), torch.inf).amin(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    ("attack_class", "options", "excess"),
    [
        (DeepFool, {}, 1e-3),
        (FAB, {"steps": 10}, 0.06),
        (CarliniWagner, {"steps": 20, "search_steps": 20}, 0.25),
    ],
)
def test_a_linear_classifier_is_fooled_at_its_boundary(
    attack_class: type[Attack], options: dict[str, Any], excess: float, norm: Norm, linear: Digits
) -> None:
    attacked = attack_class(norm=norm, **options)(*linear)
    assert (_logits(linear.network, attacked).argmax(1) != linear.labels).all()
    ratios = _sizes(linear.images, attacked, norm) / _distance(linear, norm)
    assert ratios.min() > 1 - 1e-4
    assert ratios.median() < 1 + excess


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_the_same_without_far_boundaries(
    norm: Norm, digits_network: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = _sizes(digits_network.images, DeepFool(norm=norm)(*digits_network), norm)
    monkeypatch.setattr(attacks.deepfool, "_REACH", 1e9)
    whole = _sizes(digits_network.images, DeepFool(norm=norm)(*digits_network), norm)
    assert pruned.median() <= 1.01 * whole.median()
    assert (pruned <= 1.01 * whole).double().mean() >= 0.9


def test_deepfool_leaves_every_prediction_and_does_not_depend_on_the_batch(digits_network: Digits) -> None:
    network, images, labels = digits_network
    before = _logits(network, images).argmax(1)
    whole = DeepFool()(network, images, labels)
    split = DeepFool(batch_size=7)(network, images, labels)
    for attacked in (whole, split):
        assert (_logits(network, attacked).argmax(1) != before).all()
        alone = torch.cat([_logits(network, image[None]) for image in attacked]).argmax(1)
        assert (alone != before).all()
    same = (whole - split).abs().flatten(1).amax(1) < 1e-3
    assert same.double().mean() >= 0.9  # a tie between two boundaries may be decided by rounding


def test_deepfools_overshoot_and_steps(digits_network: Digits) -> None:
    network, images, labels = digits_network
    near, far = (DeepFool(overshoot=o)(network, images, labels) for o in (1e-6, 0.2))
    assert 1.02 < (_sizes(images, far, "l2") / _sizes(images, near, "l2")).median() < 1.25
    one = DeepFool(steps=1)(network, images, labels)
    assert (_logits(network, one).argmax(1) != labels).sum() < (_logits(network, near).argmax(1) != labels).sum()
    assert (one != images).flatten(1).any(1).all()


def test_engines_are_named(digits_network: Digits) -> None:
    for attack_class in (DeepFool, CarliniWagner):
        with pytest.raises(InputError, match="engine as one of 'torch', 'art', got 'numpy'"):
            attack_class(engine="numpy")
        assert attack_class().libraries() == {}
        assert set(attack_class(engine="art").libraries()) == {"adversarial-robustness-toolbox"}
    with pytest.raises(InputError, match="engine 'art' supports norm 'l2'"):
        DeepFool(norm="linf", engine="art")


# Carlini and Wagner's least L-infinity images are nearly as small in L2, and few steps end anywhere near either.
@pytest.mark.parametrize(
    ("attack", "most"),
    [(DeepFool, {"l2": 1.0, "linf": 1.0}), (partial(CarliniWagner, steps=50), {"l2": 1.05, "linf": 1.0})],
    ids=["deepfool", "carlini_wagner"],
)
def test_each_norm_is_small_in_its_own(
    attack: Callable[..., Attack], most: dict[Norm, float], digits_network: Digits
) -> None:
    some = _first(digits_network, 40)
    made = {norm: attack(norm=norm)(*some) for norm in most}
    orders: tuple[tuple[Norm, Norm], ...] = (("l2", "linf"), ("linf", "l2"))
    for norm, other in orders:
        own, others = (_sizes(some.images, made[n], norm) for n in (norm, other))
        both = (own > 0) & (others > 0)
        assert both.sum() >= 20
        # image by image, so that what is large in both norms weighs no more than what is small in both
        assert (own[both] / others[both]).log().mean().exp() < most[norm]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_confidence_is_the_lead_of_the_wrong_class(norm: Norm, digits_network: Digits) -> None:
    network, images, labels = _first(digits_network, 12)
    plain = CarliniWagner(norm=norm)(network, images, labels)
    sure = CarliniWagner(norm=norm, confidence=2.0, search_steps=12)(network, images, labels)
    found = (sure != images).flatten(1).any(1)
    assert found.sum() >= 6
    assert (_lead(_logits(network, sure), labels)[found] <= -2.0).all()
    both = found & (plain != images).flatten(1).any(1)
    assert _sizes(images, sure, norm)[both].median() > _sizes(images, plain, norm)[both].median()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_carlini_wagner_at_a_target(norm: Norm, confidence: float, digits_network: Digits) -> None:
    network, images, labels = _first(digits_network, 12)
    attack = CarliniWagner(norm=norm, target=3, confidence=confidence, search_steps=12)
    attacked = attack(network, images, labels)
    moved = (attacked != images).flatten(1).any(1)
    assert moved.sum() >= 6
    wanted = torch.where(labels == 3, 4, 3)
    assert (_lead(_logits(network, attacked), wanted)[moved] >= confidence).all()
    # Images that are in that class already, with the confidence, are unchanged.
    there = _lead(_logits(network, images), wanted) > confidence + 1e-3
    assert not (there & moved).any()


class _Scaled(nn.Module):
    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return self.scale * logits


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_carlini_wagner_needs_a_constant_in_units_of_the_logits(norm: Norm, digits_network: Digits) -> None:
    network, images, labels = _first(digits_network, 16)
    scaled = _Scaled(network, 2.0**-30)  # about 1e-9, and exact in floating point
    plain = CarliniWagner(norm=norm, search_steps=3)(network, images, labels)
    torch.testing.assert_close(
        CarliniWagner(norm=norm, search_steps=3, initial_const=0.01 * 2.0**30)(scaled, images, labels),
        plain,
        rtol=0,
        atol=1e-6,
    )
    # The case that the docstring warns about in L2: the last c of the defaults is the first c of the unscaled search.
    right = _logits(network, images).argmax(1) == labels
    found, missed = (  # success rates
        (CarliniWagner(norm=norm)(attacked, images, labels) != images).flatten(1).any(1)[right].float().mean()
        for attacked in (network, scaled)
    )
    assert found > 0.9
    assert (missed < 0.5) if norm == "l2" else (missed > 0.9)


def test_fab_is_as_near_as_deepfool(digits_network: Digits) -> None:
    network, images, labels = digits_network
    labels = labels.clone()
    labels[:4] = (_logits(network, images[:4]).argmax(1) + 1) % 10
    fab = FAB(steps=30, norm="l2")(network, images, labels)
    deepfool = DeepFool()(network, images, labels)
    assert torch.equal(fab[:4], images[:4])
    found = (fab != images).flatten(1).any(1)
    assert found.sum() >= 48
    assert (_logits(network, fab).argmax(1) != labels)[found].all()
    assert _sizes(images, fab, "l2")[found].mean() <= 1.02 * _sizes(images, deepfool, "l2")[found].mean()


def test_more_searches_of_fab_only_come_nearer(digits_network: Digits) -> None:
    small = _first(digits_network, 16)
    once = _sizes(small.images, FAB(steps=8)(*small), "linf")
    again = _sizes(small.images, FAB(steps=8, restarts=3, radius=0.1)(*small), "linf")
    assert (again[once > 0] <= once[once > 0]).all()
    targeted = _sizes(small.images, FAB(steps=8, target_classes=9)(*small), "linf")
    assert (targeted > 0).sum() >= 12
    with pytest.raises(InputError, match="radius"):
        FAB(radius=0)
    with pytest.raises(InputError, match="target_classes"):
        FAB(target_classes=0)
