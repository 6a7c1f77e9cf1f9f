"""The timed step is a training step; the figures of a tiny run are complete. No duration is checked."""

import copy
import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed import training_step
from benchmarks.speed.training_step import CASES, OBJECTIVES, Case, build, main, stepping
from benchmarks.tables.speed import overhead
from models.networks.resnet import ResNet
from models.objectives.base import build_objective

pytestmark = pytest.mark.slow

TINY = Case(lambda: ResNet(1, width=4), 4, 16)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["cross_entropy", *OBJECTIVES])
def test_a_step_makes_the_gradients_of_its_objective_and_keeps_the_weights(
    name: str, dtype: torch.dtype | None, seed: int
) -> None:
    network = build(TINY, seed, "cpu")
    images = torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(4)
    before = {key: value.clone() for key, value in network.named_parameters()}
    other = copy.deepcopy(network)
    objective = build_objective(name)
    stepping(network, objective, images, labels, dtype)()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        expected = build_objective(name).evaluate(other, images, labels)
    expected.loss.backward()  # type: ignore[no-untyped-call]
    for (key, value), twin in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, before[key])
        assert value.grad is not None
        assert twin.grad is not None
        torch.testing.assert_close(value.grad, twin.grad, rtol=1e-2, atol=1e-4)
    if name == "least_action":
        assert objective.state()["batches"] == 1


def test_a_tiny_run_writes_a_ratio_for_every_objective_and_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training_step.CASES, "resnet20", TINY)
    out = tmp_path / "objectives.json"
    main(["--networks", "resnet20", "--rounds", "2", "--batch", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    cases = {(case["objective"], case["precision"]): case for case in result["cases"]}
    assert len(cases) == len(OBJECTIVES) * 2
    for (objective, _), case in cases.items():
        assert case["blocks"] == 3
        assert case["batch"] == 2
        assert case["ratio"] > 0
        assert case["bar"] == (1.10 if objective == "least_action" else None)
    assert len(overhead(result)) == 2 + len(cases)


def test_every_network_can_be_built() -> None:
    for case in CASES.values():
        assert case.batch >= 2
        assert build(case, 0, "cpu").training
