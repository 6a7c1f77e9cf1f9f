"""The code in docs/in-your-benchmark.md runs, on small images."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from tests.service.adapters.test_openood import Evaluator, loaders, openood  # noqa: F401 - fixtures
from tests.service.adapters.test_pytorch_ood import Digits
from tests.service.adapters.user import MEAN, STD, User

PAGE = Path(__file__).parents[3] / "docs" / "in-your-benchmark.md"


def run(section: str, **names: Any) -> dict[str, Any]:
    """The names that the code of a section defines, given others."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {"mean": MEAN, "std": STD, "np": np, **names}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace


def test_pytorch_ood(given: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_ood.benchmark.CIFAR10_OpenOOD", lambda root, transform: Digits(given))
    (row,) = run("pytorch-ood", network=given.network, transform=None)["rows"]
    assert row["Dataset"] == "noise"
    assert 0 <= row["AUROC"] <= 1


def test_art(given: User) -> None:
    classifier = PyTorchClassifier(
        given.network, nn.CrossEntropyLoss(), (3, 16, 16), 10, clip_values=(0, 1), device_type="cpu",
        preprocessing=(np.array(MEAN), np.array(STD)),
    )  # fmt: skip
    images, others = given.images[:120].numpy(), given.test_images.numpy()
    found = run("Adversarial Robustness Toolbox", classifier=classifier, images=images, other_images=others)
    expected = found["detector"].pipeline.score_in_batches(given.test_images)
    assert found["flagged"].tolist() == [each.flagged for each in expected]


@pytest.mark.usefixtures("openood")
def test_openood(given: User, loaders: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Evaluator, "loaders", loaders)
    auroc, accuracy = run("OpenOOD", network=given.network)["metrics"]
    assert 0 <= auroc <= 1
    assert accuracy > 0.5


def test_scikit_learn(given: User) -> None:
    images, labels, others = given.images.numpy(), given.labels.numpy(), given.test_images.numpy()
    found = run("scikit-learn", network=given.network, images=images, labels=labels, other_images=others)
    flagged = [each.flagged for each in found["detector"].pipeline_.score_in_batches(torch.from_numpy(others))]
    assert (~found["inliers"]).tolist() == flagged
