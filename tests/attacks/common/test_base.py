"""The contract of `Attack`, and attacks built from names and text."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import Attack, build_attack, parse_epsilon
from attacks.bim import BIM
from attacks.common.base import ImageNoise
from attacks.fgm import FGM
from attacks.hop_skip_jump import HopSkipJump
from models.errors import AttackError, InputError, UnknownNameError
from tests.attacks.digits import Digits


class Moved(Attack):
    """Returns the images after `change`, as a faulty attack would."""

    def __init__(self, *, change: Callable[[Tensor], Tensor], epsilon: float | None = 0.1) -> None:
        super().__init__(norm="linf", epsilon=epsilon, batch_size=16)
        self.change = change

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        return self.change(images)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (0.03, 0.03), (" 1 / 4 ", 0.25)])
def test_epsilon_from_text(text: str | float, value: float) -> None:
    assert parse_epsilon(text) == value


@pytest.mark.parametrize(
    "text", ["", "eight", "8/", "8/0", "1/2/3", "-0.1", "0", "nan", "inf", "1/-4", "0x10", "8//255"]
)
def test_epsilon_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="epsilon"):
        parse_epsilon(text)


def test_build_attack_parses_fractions_and_ignores_options_where_accepted() -> None:
    assert (
        build_attack("bim", {"epsilon": "8/255", "steps": 5}).parameters() == BIM(epsilon=8 / 255, steps=5).parameters()
    )
    assert build_attack("deepfool", where_accepted={"epsilon": "8/255", "seed": 4}).seed == 4
    assert build_attack("fgm", {"epsilon": 0.5}, where_accepted={"epsilon": 0.1}).epsilon == 0.5


def test_build_attack_names_the_invalid_option() -> None:
    with pytest.raises(UnknownNameError, match=r"bim.*pgd"):
        build_attack("bmi")
    with pytest.raises(InputError, match=r"no option steps; it has epsilon"):
        build_attack("fgm", {"steps": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 2, r"pixels in \[0, 1\]"),
        (lambda x: (x + 0.2).clamp(0, 1), "linf"),
        (lambda x: x * float("nan"), "finite"),
        (lambda x: x[:, :1], "images"),
        (lambda x: x[:-1], "images"),
        (lambda x: x.double(), "float64"),
    ],
)
def test_a_result_outside_the_threat_model_is_an_error(
    digits_network: Digits, change: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(AttackError, match=message):
        Moved(change=change)(*digits_network)


def test_a_result_at_the_edge_of_the_budget_passes(digits_network: Digits) -> None:
    attacked = Moved(change=lambda x: (x + 0.1).clamp(0, 1))(*digits_network)
    assert (attacked - digits_network.images).abs().max() > 0.099


def test_no_budget_is_no_limit(digits_network: Digits) -> None:
    attacked = Moved(change=lambda x: 1 - x, epsilon=None)(*digits_network)
    assert torch.equal(attacked, 1 - digits_network.images)


def test_an_attack_on_two_images_may_query_larger_batches(digits_network: Digits) -> None:
    network, images, labels = digits_network.network, digits_network.images[:2], digits_network.labels[:2]
    passes: list[int] = []
    handle = network.register_forward_pre_hook(lambda _module, given: passes.append(len(given[0])))
    try:
        HopSkipJump(steps=1, total_queries=200)(network, images, labels)
    finally:
        handle.remove()
    assert max(passes) == 64


def test_network_and_generators_are_restored_after_an_exception(digits_network: Digits) -> None:
    network, images, labels = digits_network

    def fail(x: Tensor) -> Tensor:
        torch.rand(1)
        raise ZeroDivisionError

    network.train()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    with pytest.raises(ZeroDivisionError):
        Moved(change=fail)(network, images, labels)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_an_attack_that_overwrites_its_input_does_not_fool_the_check(digits_network: Digits) -> None:
    before = digits_network.images.clone()
    with pytest.raises(AttackError, match="linf"):
        Moved(change=lambda x: x.copy_(1 - x))(*digits_network)
    assert torch.equal(digits_network.images, before)


def test_epsilon_in_grey_levels_is_refused() -> None:
    with pytest.raises(InputError, match="8/255"):
        FGM(epsilon=8)
    assert FGM(epsilon=3.0, norm="l2").epsilon == 3.0
    with pytest.raises(InputError, match="norm"):
        FGM(norm="l1")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["abc", "0.5", "nan", float("nan"), float("inf"), -1.0, 10**400, None, True, [0.5]])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("carlini_wagner", "confidence"),
        ("carlini_wagner", "initial_const"),
        ("deepfool", "overshoot"),
    ],
)
def test_options_that_are_not_numbers_are_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"expected {option}"):
        build_attack(name, {option: value})


@pytest.mark.parametrize("value", ["abc", float("nan"), float("inf"), -1.0, 10**400, True, [0.5]])
def test_a_learning_rate_is_a_number_or_left_out(value: object) -> None:
    assert build_attack("carlini_wagner", {"learning_rate": None}).parameters()["learning_rate"] is None
    with pytest.raises(InputError, match="expected learning_rate"):
        build_attack("carlini_wagner", {"learning_rate": value})


def test_numbers_at_the_ends_of_their_range() -> None:
    assert build_attack("carlini_wagner", {"confidence": 0}).parameters()["confidence"] == 0
    assert build_attack("deepfool", {"overshoot": 0}).parameters()["overshoot"] == 0
    for name, option, value in (("carlini_wagner", "learning_rate", 0), ("carlini_wagner", "initial_const", 0.0)):
        with pytest.raises(InputError, match="above 0"):
            build_attack(name, {option: value})
    with pytest.raises(InputError, match=r"overshoot in \[0, 1\)"):
        build_attack("deepfool", {"overshoot": 1})


def test_noise_is_the_images_own(seed: int) -> None:
    images = torch.zeros(6, 3, 4, 5)
    noise = ImageNoise(seed, 0).uniform(images)
    assert noise.shape == images.shape
    assert noise.min() >= -1
    assert noise.max() < 1
    assert torch.equal(noise[4:], ImageNoise(seed, 4).uniform(images[:2]))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, ImageNoise(seed, 0).uniform(images, draw=1))
    assert not torch.equal(noise, ImageNoise(seed + 1, 0).uniform(images))
