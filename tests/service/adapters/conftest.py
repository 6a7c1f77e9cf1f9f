"""The user's network and images, made once for each module."""

import pytest

from tests.conftest import SEED
from tests.service.adapters.user import User, user


@pytest.fixture(scope="package")
def given() -> User:
    return user(SEED)
