"""A user's network and images: a plain classifier of normalised digits, and images of another kind."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.normalization import Normalized
from tests.attacks.digits import digits
from tests.service.small_evaluation import small_digits

MEAN, STD = (0.3,) * 3, (0.35,) * 3


class User(NamedTuple):
    """`network` takes `normalized(images)`; images are float32 in [0, 1]."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    outliers: Tensor


def user(seed: int) -> User:
    """Images to fit on, to test on, and uniform noise."""
    trained = digits(seed).network
    assert isinstance(trained, Normalized)
    data = small_digits(380)
    images, labels = data.tensor(), torch.from_numpy(data.labels)
    noise = np.random.default_rng(seed).integers(0, 256, (90, 3, 16, 16))
    outliers = torch.from_numpy(noise).float() / 255
    return User(copy.deepcopy(trained.network), images[:300], labels[:300], images[300:], labels[300:], outliers)


def normalized(images: Tensor) -> Tensor:
    """The user's transform."""
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
