"""Adaptive attacks of an evaluation: the attacked pipelines and their thresholds."""

from pathlib import Path

import pytest

from service.adaptive.budgets import Budgets
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.running.run import run_evaluation
from service.evaluation.summary.figures import figures
from tests.service.small_evaluation import loaded_network, settings, small_digits

pytestmark = pytest.mark.slow


def test_the_first_fit_of_the_first_run_is_attacked_by_score_and_by_one_vote(tmp_path: Path, seed: int) -> None:
    wishes = settings(
        detectors=("transport:num_trees=10", "transport_cost"), fit_on=("fgm", "bim:steps=2"), runs=1, seed=seed,
        adaptive=("selective",), adaptive_images=12, cache=tmp_path,
        adaptive_budgets=Budgets(
            epsilons=(4 / 255,), descent_steps=8, descent_restarts=1, surrogate_images=12, surrogate_rounds=1,
            linf_limits=(4 / 255,),
        ),
    )  # fmt: skip
    inputs = EvaluationInputs(data=small_digits(160), network=loaded_network(seed))
    evaluation = run_evaluation(plan_evaluation(inputs, wishes), progress=False)
    found = figures(evaluation, resamples=0)["adaptive"]
    name = "transport:num_trees=10 fitted on fgm"
    assert list(found) == [name, f"{name}, all_class vote alone", "transport_cost"]
    assert all(each["images"] == 12 for each in found.values())
    assert [each["ensemble"] for each in found.values()] == [True, False, True]
    assert all("selective" in each["attacks"] for each in found.values())
