"""The adapter to OpenOOD, with a stand-in of the classes and calls of its evaluator.

OpenOOD is not on the package index. The stand-in follows its documented interface: `setup` with loaders by name,
`APS_mode`, and `inference` on each loader of dictionaries with "data" and "label".
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from models.errors import NotFittedError
from tests.service.adapters.user import MEAN, STD, User, normalized


class BasePostprocessor:
    """Stand-in: keeps its configuration."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def setup(self, net: nn.Module, id_loader_dict: Any, ood_loader_dict: Any) -> None:
        raise AssertionError("a postprocessor that learns has a setup of its own")

    def inference(self, net: nn.Module, data_loader: Any, progress: bool = True) -> Any:
        raise AssertionError("OpenOOD's own loop moves batches to a GPU")


class Items(Dataset[dict[str, Any]]):
    """Items as OpenOOD's image lists give them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = normalized(images), labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"data": self._images[index], "label": int(self._labels[index]), "image_name": str(index)}


def evaluate(net: nn.Module, postprocessor: Any, loaders: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """AUROC and accuracy, by the calls that the evaluator makes in this order."""
    assert isinstance(postprocessor, BasePostprocessor)
    postprocessor.setup(net, loaders["id"], loaders["ood"])
    assert not (postprocessor.APS_mode and not postprocessor.hyperparam_search_done)
    net.eval()
    predicted, known_conf, labels = postprocessor.inference(net, loaders["id"]["test"], False)
    _, outlier_conf, _ = postprocessor.inference(net, loaders["ood"]["far"]["noise"], False)
    # OpenOOD: in-distribution images are to have the higher confidence.
    truth = np.concatenate([np.zeros(len(known_conf)), np.ones(len(outlier_conf))])
    return float(roc_auc_score(truth, -np.concatenate([known_conf, outlier_conf]))), float((predicted == labels).mean())


class Evaluator:
    """Stand-in: sets the postprocessor up and evaluates it on loaders that a test gives the class."""

    loaders: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, net: nn.Module, id_name: str, *, postprocessor: Any) -> None:
        self._figures = evaluate(net, postprocessor, self.loaders)

    def eval_ood(self) -> tuple[float, float]:
        return self._figures


@pytest.fixture(scope="module", autouse=True)
def openood() -> Iterator[None]:
    modules = {name: types.ModuleType(name) for name in ("openood", "openood.postprocessors", "openood.evaluation_api")}
    vars(modules["openood.postprocessors"])["BasePostprocessor"] = BasePostprocessor
    vars(modules["openood.evaluation_api"])["Evaluator"] = Evaluator
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield
        sys.modules.pop("service.adapters.openood", None)


@pytest.fixture(scope="module")
def loaders(given: User) -> dict[str, dict[str, Any]]:
    def loader(images: Tensor, labels: Tensor) -> "DataLoader[dict[str, Any]]":
        return DataLoader(Items(images, labels), batch_size=50)

    unknown = torch.full((len(given.outliers),), -1)
    known = {
        "train": loader(given.images[:240], given.labels[:240]),
        "val": loader(given.images[240:], given.labels[240:]),
        "test": loader(given.test_images, given.test_labels),
    }
    far = {"noise": loader(given.outliers, unknown)}
    return {"id": known, "ood": {"val": loader(given.outliers, unknown), "near": {}, "far": far}}


def test_the_evaluators_calls_give_the_pipelines_figures(given: User, loaders: dict[str, dict[str, Any]]) -> None:
    from service.adapters.openood import PlumblinePostprocessor

    postprocessor = PlumblinePostprocessor(mean=MEAN, std=STD, detector="energy", fpr=0.1)
    auroc, accuracy = evaluate(given.network, postprocessor, loaders)
    pipeline = postprocessor.pipeline
    assert pipeline is not None
    natural, noise = pipeline.score(given.test_images), pipeline.score(given.outliers)
    truth = np.repeat([0, 1], [len(natural), len(noise)])
    assert auroc == pytest.approx(roc_auc_score(truth, [each.score for each in [*natural, *noise]]))
    assert accuracy == np.mean([each.label for each in natural] == given.test_labels.numpy())
    # Calibrated on the loader "val" alone.
    expected = sorted(each.score for each in pipeline.score(given.images[240:]))
    assert pipeline.calibration.scores.tolist() == expected


def test_an_artifact_is_evaluated_as_it_is(artifact: Path, loaders: dict[str, dict[str, Any]]) -> None:
    from service.adapters.openood import PlumblinePostprocessor

    postprocessor = PlumblinePostprocessor.from_artifact(artifact, mean=MEAN, std=STD)
    before = postprocessor.pipeline
    assert before is not None
    evaluate(before.network, postprocessor, loaders)
    assert postprocessor.pipeline is before


def test_postprocess_needs_setup(given: User) -> None:
    from service.adapters.openood import PlumblinePostprocessor

    with pytest.raises(NotFittedError, match="call setup first"):
        PlumblinePostprocessor(mean=MEAN, std=STD).postprocess(given.network, normalized(given.outliers))
