"""Runners: the same results from one process or several, and errors that name the remedy."""

from dataclasses import dataclass

import pytest

from models.errors import AttackError, InputError
from models.registry import RUNNERS
from models.runners import build_runner


@dataclass(frozen=True)
class Square:
    """The square of a number; one number raises an error."""

    refused: int | None = None

    def __call__(self, number: int) -> int:
        if number == self.refused:
            raise AttackError(f"{number} is refused")
        return number**2


@pytest.mark.parametrize(("name", "workers"), [("local", None), ("local", 2), ("array", None)])
def test_results_are_those_of_the_function(name: str, workers: int | None) -> None:
    runner = build_runner(name, workers=workers)
    assert sorted(runner.run(Square(), iter(range(6)))) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(AttackError, match="3 is refused"):
        list(runner.run(Square(refused=3), range(6)))


def test_one_process_reads_an_item_when_it_needs_it() -> None:
    items = iter(range(6))
    results = build_runner("local").run(Square(), items)
    assert (next(results), next(items)) == (0, 1)


def test_names_and_numbers_of_workers_are_checked() -> None:
    assert RUNNERS.names() == ["array", "local", "ray"]
    with pytest.raises(InputError, match="workers"):
        build_runner("local", workers=0)
    with pytest.raises(InputError, match="use more tasks"):
        build_runner("array", workers=2)
