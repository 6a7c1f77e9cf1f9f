"""Plans: options without effect are refused before anything is loaded or attacked."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import InputError
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation, resolve
from service.requests.evaluate import EvaluationRequest
from tests.service.small_evaluation import loaded_network, settings, small_digits


def request(**options: object) -> EvaluationRequest:
    return replace(EvaluationRequest(out=Path("report")), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --network or --artifact"),
        ({"artifact": Path("a"), "runs": 3}, "leave --runs 3 out"),
        ({"artifact": Path("a"), "mean": (0.5,) * 3}, "leave --mean and --std out"),
        ({"network": "resnet8", "reference_limit": 5}, "--reference-limit needs --reference"),
        ({"network": "resnet8", "adaptive_steps": 50}, "need --adaptive"),
        ({"network": "resnet8", "attack_limit": ("fgm",)}, "--attack-limit NAME=N"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_requests_with_options_without_effect_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(request(**options))


def test_a_reference_that_no_detector_uses_is_refused(seed: int) -> None:
    inputs = EvaluationInputs(
        data=small_digits(100), network=loaded_network(seed), reference=small_digits(50, first=200)
    )
    with pytest.raises(InputError, match="--reference digits has no effect on transport"):
        plan_evaluation(inputs, settings(detectors=("transport",)))
    plan = plan_evaluation(inputs, settings(detectors=("knn:classifier=none",), test_on=()))
    assert plan.images.reference is not None
