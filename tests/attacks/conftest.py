"""A trained network for the tests of attacks."""

import copy

import pytest

from tests.attacks.digits import Digits, digits


@pytest.fixture
def digits_network(seed: int) -> Digits:
    """Network, images and labels; the network is a copy that a test may change."""
    made = digits(seed)
    return made._replace(network=copy.deepcopy(made.network))
