"""The options of `plumbline evaluate` as a request."""

from argparse import Namespace
from dataclasses import fields
from typing import Any

from service.evaluation.planning.request import EvaluationRequest

__all__ = ["evaluation_request", "run"]

_COMMAS = ("detectors", "test_on", "fit_on", "budgets", "adaptive")  # options whose values are separated by commas


def run(options: Namespace) -> None:
    """Evaluate as the command line states, and print the table of results."""
    from service.jobs.evaluate import run as evaluate

    outcome = evaluate(evaluation_request(options))
    print(outcome.table)
    print(f"report in {outcome.page}")


def evaluation_request(options: Namespace) -> EvaluationRequest:
    """The request that the command line states."""
    given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(EvaluationRequest)}
    for name in _COMMAS:
        if given[name] is not None:
            given[name] = tuple(word.strip() for word in given[name].split(","))
    given["budgets"] = given["budgets"] or ()
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return EvaluationRequest(**values)
