"""A trained network of the tests' own, since an attack on an untrained one shows nothing."""

import copy

import pytest

from tests.attacks.digits import Digits, digits


@pytest.fixture
def digits_network(seed: int) -> Digits:
    """Network, images and labels; the network is a copy, so that a test may do with it what it likes."""
    made = digits(seed)
    return made._replace(network=copy.deepcopy(made.network))
