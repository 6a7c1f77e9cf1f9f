"""Budgets of adaptive attacks, in code and on the command line."""

import dataclasses
from typing import Any

import pytest

from models.errors import InputError
from service.adaptive.budgets import Budgets
from service.evaluation.planning.settings import EvaluationSettings, settings_of
from tests.service.cli.command_line import request_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"surrogate_rounds": -1},
        {"epsilons": ()},
        {"epsilons": (0.1, 0.05)},
        {"epsilons": (2.0,)},
        {"matching_weights": (-1.0,)},
        {"around": "start"},
        {"queries": 99},
        {"queries": 1e4},
        {"descent_steps": 3},
        {"evaluations": 1},
    ],
    ids=str,
)
def test_budgets_refuse(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected|empty"):
        Budgets(**options)


def test_budgets_are_the_thesis_s() -> None:
    assert (Budgets().iterations, Budgets().evaluations) == (50, 10_000)


def settings_said(*words: str) -> EvaluationSettings:
    return settings_of(request_of("evaluate", "--network", "tiny", "--out", "report", *words))


def test_budgets_from_the_command_line() -> None:
    assert settings_said("--adaptive", "black_box").adaptive_budgets is None
    said = settings_said("--adaptive", "black_box", "--adaptive-queries", "2000", "--adaptive-steps", "40")
    assert said.adaptive_budgets is not None
    assert dataclasses.asdict(said.adaptive_budgets) == dataclasses.asdict(Budgets(queries=2000, descent_steps=40))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adaptive", "black_box", "--adaptive-queries", "20"], "queries as an integer of at least 100"),
        (["--adaptive", "black_box", "--adaptive-steps", "0"], "descent_steps as an integer of at least 4"),
        (["--adaptive-queries", "2000"], "name adaptive attacks, such as --adaptive black_box"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_invalid_budgets_are_refused_on_the_command_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_said(*words)
