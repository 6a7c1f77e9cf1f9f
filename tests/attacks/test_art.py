"""The attack `art`: classes of ART by name, with ART's options."""

from typing import Any

import pytest
import torch

from attacks import build_attack
from attacks.bim import BIM
from models.errors import InputError
from tests.attacks.digits import Digits

pytestmark = pytest.mark.slow


def _fooled(digits: Digits, **options: Any) -> int:
    network, images, labels = digits
    attacked = build_attack("art", options)(network, images[:8], labels[:8])
    with torch.no_grad():
        return int((network(attacked).argmax(1) != labels[:8]).sum())


@pytest.mark.parametrize(
    "options",
    [
        {"class_name": "SquareAttack", "epsilon": 0.3, "max_iter": 30},
        {"class_name": "AutoConjugateGradient", "epsilon": 2.0, "norm": "l2", "max_iter": 10, "nb_random_init": 1},
        {"class_name": "SpatialTransformation", "max_translation": 20, "num_translations": 3, "max_rotation": 30},
    ],
    ids=lambda options: options["class_name"],
)
def test_attacks_that_exist_only_in_art_fool_the_network(options: dict[str, Any], digits_network: Digits) -> None:
    assert _fooled(digits_network, **options) >= 3


def test_steps_follow_from_the_budget(digits_network: Digits) -> None:
    attack = build_attack("art", {"class_name": "BasicIterativeMethod", "epsilon": "2/255", "max_iter": 10})
    ours = BIM(epsilon=2 / 255, steps=10, step=2.5 * 2 / 255 / 10, engine="art")
    assert torch.equal(attack(*digits_network), ours(*digits_network))


def test_options_are_parameters() -> None:
    attack = build_attack("art", {"class_name": "NewtonFool", "max_iter": 5}, where_accepted={"epsilon": 0.03})
    assert attack.parameters()["max_iter"] == 5
    assert attack.epsilon is None
    assert type(attack)(**attack.parameters()).parameters() == attack.parameters()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_name": "AdversarialPatch"}, "expected class_name as one of .*NewtonFool.*, got 'AdversarialPatch'"),
        ({"class_name": "NewtonFool", "steps": 3}, "ART's NewtonFool has no option steps; it has max_iter, eta"),
        ({"class_name": "NewtonFool", "target": 3}, "ART's NewtonFool has no target; leave target out"),
        ({"class_name": "SquareAttack", "epsilon": None}, "ART's SquareAttack has a budget; state epsilon"),
        ({"class_name": "BasicIterativeMethod", "norm": "l2"}, "supports norm 'linf' only"),
        ({"class_name": "SquareAttack", "eps": 0.3}, "has no option eps"),
    ],
)
def test_invalid_options_are_refused_before_the_attack(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_attack("art", options)
