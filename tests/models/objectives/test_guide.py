"""The example of docs/adding-an-objective.md works."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import CheckpointError
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.objectives.base import Objective
from models.training.loop import train
from models.training.recipe import Recipe

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding-an-objective.md"


def _objective_class() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "models.objectives.margin"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    (name,) = namespace["__all__"]
    return namespace[name]


def test_the_example_is_trained_with_and_goes_on(tmp_path: Path, seed: int) -> None:
    kind = _objective_class()
    data = load_dataset("digits", DatasetRequest(split="train", resize=8)).limited(128, seed)
    recipe = Recipe(epochs=4, batch_size=32, flip=False, crop_padding=0, seed=seed)
    torch.manual_seed(seed)
    network = Normalized(ResNet(1, width=8), (0.3,) * 3, (0.3,) * 3)
    objective = kind(margin=0.5, growth=0.001)
    assert isinstance(objective, Objective)
    assert objective.options() == {"margin": 0.5, "growth": 0.001}
    rows = train(network, data, objective, recipe, tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]
    # The mean of an epoch's four margins; the first is the option's.
    assert [row["margin"] for row in rows] == pytest.approx([0.5015, 0.5055, 0.5095, 0.5135])
    again = kind(margin=0.5, growth=0.001)
    assert train(network, data, again, recipe, tmp_path) == rows
    assert again.state() == pytest.approx({"margin": 0.516})
    with pytest.raises(CheckpointError, match="another recipe"):
        train(network, data, kind(margin=0.6), recipe, tmp_path)


def test_the_page_names_every_method_there_is_and_no_other() -> None:
    named = set(re.findall(r"`(\w+)(?:\([\w, ]*\))?`", PAGE.read_text(encoding="utf-8").partition("| method |")[2]))
    methods = {name for name, value in vars(Objective).items() if callable(value) and not name.startswith("_")}
    assert methods - {"options", "evaluate"} <= named
    assert named - {"held_out", "evaluate"} <= methods
