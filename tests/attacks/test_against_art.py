"""Gradient attacks compared with ART's, and the adapter compared with ART itself."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.apgd import APGD
from attacks.bim import BIM
from attacks.carlini_wagner import CarliniWagner
from attacks.common.base import Attack, Norm, Target
from attacks.deepfool import DeepFool
from attacks.fgm import FGM
from attacks.jsma import JSMA
from attacks.pgd import PGD
from models.errors import AttackError
from tests.attacks.digits import Digits

pytestmark = pytest.mark.slow

EPSILON = 0.05


def _art(attack: str, digits: Digits, **options: Any) -> Tensor:
    """ART as in its manual, without the adapter."""
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=copy.deepcopy(digits.network),
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 16, 16),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    made = getattr(evasion, attack)(classifier, batch_size=64, **options)
    return torch.from_numpy(made.generate(digits.images.numpy(), digits.labels.numpy()))


def _robust(digits: Digits, images: Tensor) -> int:
    with torch.no_grad():
        return int((digits.network(images).argmax(1) == digits.labels).sum())


def _assert_same_images(ours: Tensor, arts: Tensor) -> None:
    # ART's softmax is float32: where it saturates, the sign of its gradient is rounding error. That is a pixel here and
    # there, or one very confident image of the 64.
    same = ((ours - arts).abs() <= 1e-6).flatten(1).float().mean(1)
    assert (same == 1).float().mean() >= 0.9
    assert same.mean() >= 0.98


STEPS: dict[str, Any] = {"eps": EPSILON, "eps_step": EPSILON / 4, "max_iter": 8, "verbose": False}


def test_fgm_is_arts(digits_network: Digits) -> None:
    arts = _art("FastGradientMethod", digits_network, eps=EPSILON, eps_step=EPSILON)
    _assert_same_images(FGM(epsilon=EPSILON)(*digits_network), arts)
    torch.testing.assert_close(FGM(epsilon=EPSILON, engine="art")(*digits_network), arts, atol=1e-6, rtol=0)


def test_bim_is_arts_at_the_same_step(digits_network: Digits) -> None:
    arts = _art("BasicIterativeMethod", digits_network, **STEPS)
    options: dict[str, Any] = {"epsilon": EPSILON, "step": EPSILON / 4, "steps": 8}
    _assert_same_images(BIM(**options)(*digits_network), arts)
    torch.testing.assert_close(BIM(engine="art", **options)(*digits_network), arts, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "arts"),
    [
        (PGD, ("ProjectedGradientDescent", {"num_random_init": 1})),
        (APGD, ("AutoProjectedGradientDescent", {"nb_random_init": 1})),
    ],
)
def test_starts_and_steps_of_arts_engine_are_arts(
    ours: type[PGD | APGD], arts: tuple[str, dict[str, int]], digits_network: Digits, seed: int
) -> None:
    state = np.random.get_state()  # noqa: NPY002 - ART draws from the legacy generator
    np.random.seed(seed)  # noqa: NPY002
    expected = _art(arts[0], digits_network, **STEPS, **arts[1])
    np.random.set_state(state)  # noqa: NPY002
    attack = ours(epsilon=EPSILON, step=EPSILON / 4, steps=8, restarts=1, engine="art", seed=seed)
    torch.testing.assert_close(attack(*digits_network), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "epsilon", "target"), [("linf", EPSILON, None), ("l2", 1.0, "runner_up")])
@pytest.mark.parametrize(
    ("attack", "options"), [(FGM, {}), (BIM, {"steps": 10}), (PGD, {"steps": 10}), (APGD, {"steps": 10, "restarts": 1})]
)
def test_ours_are_as_strong_as_arts(
    attack: type[FGM | BIM | PGD | APGD],
    options: dict[str, Any],
    norm: Norm,
    epsilon: float,
    target: Target | None,
    digits_network: Digits,
    seed: int,
) -> None:
    options = options | {"epsilon": epsilon, "norm": norm, "target": target, "seed": seed}
    ours, arts = (attack(engine=engine, **options)(*digits_network) for engine in ("torch", "art"))
    assert _robust(digits_network, arts) < _robust(digits_network, digits_network.images)
    assert _robust(digits_network, ours) <= _robust(digits_network, arts) + 5


def _small(digits: Digits) -> Digits:
    return digits._replace(images=digits.images[:16], labels=digits.labels[:16])


def _changed(digits: Digits, attacked: Tensor) -> Tensor:
    with torch.no_grad():
        return digits.network(attacked).argmax(1) != digits.network(digits.images).argmax(1)


def _l2(digits: Digits, attacked: Tensor) -> Tensor:
    return (attacked - digits.images).double().flatten(1).norm(dim=1)


def test_deepfool_through_art_is_arts(digits_network: Digits) -> None:
    small = _small(digits_network)
    arts = _art("DeepFool", small, max_iter=20, nb_grads=10, verbose=False)
    torch.testing.assert_close(DeepFool(steps=20, engine="art")(*small), arts, atol=1e-6, rtol=0)


def test_deepfool_equals_arts_and_keeps_its_class(digits_network: Digits) -> None:
    small = _small(digits_network)
    arts, ours = _art("DeepFool", small, max_iter=30, nb_grads=10, verbose=False), DeepFool()(*small)
    assert _changed(small, ours).all()
    # The same path, but for the lead: 2⁻¹⁶ of the largest logit.
    torch.testing.assert_close(_l2(small, ours), _l2(small, arts), rtol=2e-3, atol=1e-5)


def test_carlini_wagner_through_art_is_arts(digits_network: Digits) -> None:
    small = digits_network._replace(images=digits_network.images[:6], labels=digits_network.labels[:6])
    arts = _art("CarliniL2Method", small, max_iter=10, binary_search_steps=2, verbose=False)
    ours = CarliniWagner(search_steps=2, engine="art")(*small)
    torch.testing.assert_close(ours, arts.clamp(0, 1), atol=1e-6, rtol=0)


def test_carlini_wagner_is_as_near_as_arts_and_fools_as_many(digits_network: Digits) -> None:
    small = digits_network._replace(images=digits_network.images[:8], labels=digits_network.labels[:8])
    arts = _art("CarliniL2Method", small, max_iter=10, binary_search_steps=10, verbose=False)
    ours = CarliniWagner()(*small)
    assert _robust(small, ours) <= _robust(small, arts)
    both = _changed(small, ours) & _changed(small, arts)
    assert both.sum() >= 4
    assert _l2(small, ours)[both].mean() <= _l2(small, arts)[both].mean()


def test_carlini_wagner_leaves_misclassified_images(digits_network: Digits) -> None:
    network, images, labels = digits_network
    images, labels = images[:8], labels[:8]
    with torch.no_grad():
        wrong = (network(images).argmax(1) + 1) % 10  # labels the network disagrees with
    assert torch.equal(CarliniWagner()(network, images, wrong), images)


def test_a_failure_inside_art_is_named(digits_network: Digits) -> None:
    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return digits_network.network(images).detach()

    with pytest.raises(AttackError, match="DeepFool failed"):
        DeepFool(engine="art")(Detached(), digits_network.images[:2], digits_network.labels[:2])


def test_nothing_is_printed_or_logged(
    digits_network: Digits, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    images, labels = digits_network.images[:4], digits_network.labels[:4]
    with caplog.at_level("DEBUG"):
        for attack in (DeepFool(steps=3, engine="art"), CarliniWagner(steps=2, search_steps=1, engine="art")):
            attack(digits_network.network, images, labels)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


class _RootAtZero(nn.Module):
    """The network; the gradient of its logits is NaN"""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + (0 * images).flatten(1).sum(1).sqrt()[:, None]


@pytest.mark.parametrize(
    "attack",
    [DeepFool(engine="art"), CarliniWagner(engine="art"), JSMA(engine="art"), PGD(steps=3, engine="art")],
)
def test_a_gradient_that_is_nan_inside_art_is_named(attack: Attack, digits_network: Digits) -> None:
    network, images, labels = digits_network
    with pytest.raises(AttackError, match=r"^expected finite gradients from the network, got NaN or infinity for"):
        attack(_RootAtZero(network), images[:4], labels[:4])
