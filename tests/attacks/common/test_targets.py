"""Target classes, and untargeted attacks without them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.bim import BIM
from attacks.carlini_wagner import CarliniWagner
from attacks.common.base import Target
from attacks.common.noise import ImageNoise
from attacks.common.targets import target_classes
from attacks.generation.generate import _key
from models.errors import InputError
from tests.attacks.digits import Digits


class Given(nn.Module):
    """Returns the logits it was made with."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
LABELS = torch.tensor([0, 3, 3])


@pytest.mark.parametrize(
    ("target", "expected"),
    [("runner_up", [1, 0, 2]), ("least_likely", [3, 2, 0]), (2, [2, 2, 2]), (3, [3, 0, 0]), (0, [1, 0, 0])],
)
def test_targets_by_hand(target: Target, expected: list[int]) -> None:
    found = target_classes(target, Given(LOGITS), torch.zeros(3, 3, 2, 2), LABELS, ImageNoise(0, 0))
    assert found.tolist() == expected


def test_random_targets_are_every_other_class_and_the_images_own(seed: int) -> None:
    network, images = Given(torch.zeros(600, 4)), torch.zeros(600, 3, 2, 2)
    labels = torch.arange(600) % 4
    found = target_classes("random", network, images, labels, ImageNoise(seed, 0))
    counts = np.zeros((4, 4))
    np.add.at(counts, (labels.numpy(), found.numpy()), 1)
    assert (np.diag(counts) == 0).all()
    assert (counts[~np.eye(4, dtype=bool)] > 20).all()  # 50 expected, standard deviation 6
    part = target_classes("random", network, images[100:], labels[100:], ImageNoise(seed, 100))
    assert torch.equal(part, found[100:])
    assert not torch.equal(target_classes("random", network, images, labels, ImageNoise(seed + 1, 0)), found)


def test_a_class_that_is_none() -> None:
    with pytest.raises(InputError, match=r"target in 0…3, the network's classes, got 4"):
        target_classes(4, Given(LOGITS), torch.zeros(3, 3, 2, 2), LABELS, ImageNoise(0, 0))


def test_sets_from_before_an_option_are_found_under_the_key_they_had(digits_network: Digits) -> None:
    network, images, labels = digits_network
    keys = [
        _key(network, images.numpy(), labels.numpy(), attack, 64)["parameters"]
        for attack in (BIM(), BIM(target="runner_up"))
    ]
    assert "target" not in keys[0]
    assert keys[1] == keys[0] | {"target": "runner_up"}
    plain, linf = (
        _key(network, images.numpy(), labels.numpy(), attack, 64)["parameters"]
        for attack in (CarliniWagner(), CarliniWagner(norm="linf"))
    )
    assert linf == plain | {"norm": "linf"}
    assert "norm" not in plain
