"""The short form of `python -m tests.chaos`: the fast scenarios with few clients; no duration is asserted."""

from collections.abc import Iterator

import pytest

from tests.chaos.scenarios import SCENARIOS, Chaos, Outcome
from tests.conftest import SEED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    chaos = Chaos(tmp_path_factory.mktemp("chaos"), SEED, scale=0.1)
    with chaos.sharing():
        yield chaos


@pytest.mark.parametrize("name", ["poisoned_image", "disconnect_storm", "sighup"])
def test_a_server_survives(chaos: Chaos, name: str) -> None:
    outcome = SCENARIOS[name](chaos)
    assert outcome.problems == []
    assert outcome.figures["other_requests"] > 0


def test_missed_limits_are_not_problems() -> None:
    outcome = Outcome("x", figures={"a_s": 2.0, "b_s": 0.5}, bars={"a_s": 1.0, "b_s": 1.0})
    assert outcome.missed() == ["a_s is 2.00, at most 1 expected"]
    outcome.require(True, "not noted")
    outcome.require(False, "noted")
    assert outcome.problems == ["noted"]


def test_a_killed_inference_thread_ends_the_process_and_all_requests(chaos: Chaos) -> None:
    # Last, because it ends the server of the tests above.
    outcome = SCENARIOS["thread_killed"](chaos)
    assert outcome.problems == []
