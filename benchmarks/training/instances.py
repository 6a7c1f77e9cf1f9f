"""Small trainings; each writes its figures when it is complete, and is not trained again.

An instance is one training of a `Setting`: a random subset of the training images, random initial weights and a random
order of batches, all drawn from the instance's number. Instances with the same number in two settings share these where
the settings allow it, so that their difference is due to the objective. Delete the folder of the instances after a
change of the code that trains them.
"""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.files import write_json
from models.normalization import Normalized
from models.objectives.base import build_objective
from models.objectives.module_wise import ModuleWise
from models.registry import NETWORKS
from models.residuals import discover, evaluation_mode, record_residues
from models.splitting.local_modules import LocalModule
from models.training.loop import accuracy, train
from models.training.recipe import Recipe

__all__ = [
    "Images", "Instance", "Setting", "finished", "run_instance", "take_averages_anew", "transport_cost",
]  # fmt: skip

_BATCH = 100  # on a CPU, the activations of larger batches of small images leave the cache


@dataclass(frozen=True)
class Images:
    """Source of the images of a data set.

    Args:
        name: of the data set, such as "mnist".
        train: reference of the training images.
        test: reference of the test images; None reserves `tested` images of `train`, the same for every instance.
        tested: number of test images.
        root: folder of downloaded data sets.
        side: of the images in pixels, to which they are resized; None for their own.
    """

    name: str
    train: str
    test: str | None
    tested: int
    root: Path = Path("data")
    side: int | None = None

    def load(self) -> tuple[ImageDataset, ImageDataset]:
        """The pool of training images and the test images; no image is in both.

        Raises:
            InputError: too few images.
        """
        pool = _loaded(self.train, "train", self.root, self.side)
        if self.test is not None:
            return pool, _loaded(self.test, "test", self.root, self.side).limited(self.tested)
        if len(pool) <= self.tested:
            raise InputError(
                f"{self.name} has {len(pool)} images; more than the {self.tested} images to test on are needed"
            )
        order = np.random.default_rng(0).permutation(len(pool))
        return pool.take(np.sort(order[self.tested :])), pool.take(np.sort(order[: self.tested]))

    def fingerprints(self) -> list[str]:
        """SHA-256 of the training images, and of the test images if they have another source."""
        named = [(self.train, "train")] + ([(self.test, "test")] if self.test is not None else [])
        return [_fingerprint(reference, split, self.root, self.side) for reference, split in named]


@lru_cache(maxsize=16)
def _fingerprint(reference: str, split: Any, root: Path, side: int | None) -> str:
    return _loaded(reference, split, root, side).fingerprint()


@lru_cache(maxsize=4)
def _loaded(reference: str, split: Any, root: Path, side: int | None) -> ImageDataset:
    return load_dataset(reference, DatasetRequest(split=split, root=root, resize=side, crop=side))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Images, network, objective and recipe of an instance; JSON values only.

    Args:
        experiment: the table or figure of the thesis.
        method: name in the tables.
        dataset: a name of `Images`.
        images: number of training images.
        network: a name of `models.networks`.
        arguments: keywords of its constructor besides num_classes.
        objective, options: see `models.objectives`.
        recipe: keywords of `models.training.recipe.Recipe`, without the seed.
        tracked: number of test images that are tested during training; 0 for none.
        every: epochs from one of these tests to the next.
    """

    experiment: str
    method: str
    dataset: str
    images: int
    network: str
    objective: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    tracked: int = 500
    every: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Instance:
    """One training of a setting on these images.

    Args:
        number: from 0; seeds subset, weights and order.
        seed: of all instances.
    """

    setting: Setting
    images: Images
    number: int
    seed: int = 0

    def path(self, work: Path) -> Path:
        """The file of the instance's figures."""
        return work / self.setting.experiment / self._key() / f"instance-{self.number:03d}.json"

    def _key(self) -> str:
        # The name of a method has no effect on the training.
        settings = {k: v for k, v in self.setting.to_json().items() if k not in ("experiment", "method")}
        settings |= {"seed": self.seed, "tested": self.images.tested, "images_sha256": self.images.fingerprints()}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def finished(instance: Instance, work: Path) -> dict[str, Any] | None:
    """The figures of an instance, or None if it is not done."""
    path = instance.path(work)
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_instance(instance: Instance, work: Path) -> dict[str, Any]:
    """Train, test, write the figures and return them; an interrupted instance continues after its last epoch.

    Raises:
        InputError: fewer images than the setting needs.
    """
    setting, seed = instance.setting, instance.seed * 1000 + instance.number
    pool, test = instance.images.load()
    if setting.images > len(pool):
        raise InputError(f"{setting.dataset} has {len(pool)} training images; at least {setting.images} are needed")
    chosen = np.random.default_rng([instance.seed, instance.number]).permutation(len(pool))[: setting.images]
    data = pool.take(np.sort(chosen))
    path = instance.path(work)
    network = _network(setting, data, seed)
    objective = build_objective(setting.objective, setting.options)
    tracked = test.limited(setting.tracked) if setting.tracked else None
    continued = path.with_suffix("").exists()
    started, processor = time.perf_counter(), time.process_time()
    # One progress bar over all instances replaces the output of every epoch.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        rows = train(
            network, data, objective, Recipe(**setting.recipe, seed=seed), path.with_suffix(""), test=tracked,
            test_every=setting.every,
        )  # fmt: skip
    processor = time.process_time() - processor
    figures = {
        "setting": setting.to_json(),
        "instance": instance.number,
        "seed": instance.seed,
        "tested": len(test),
        "tracked": [row["test_accuracy"] for row in rows if "test_accuracy" in row],
        "train_accuracy": [row["train_accuracy"] for row in rows],
        "loss": [row["loss"] for row in rows],
        "accuracy": accuracy(network, test, batch_size=_BATCH),
        "transport_cost": transport_cost(network, test),
        # The time of the training and its tests. Other processes affect it less than the elapsed time. The time of the
        # epochs before an interruption is not known.
        "processor_seconds": None if continued else processor,
    }
    by_module = objective if isinstance(objective, ModuleWise) else None
    take_averages_anew(_Modules(by_module.local_modules) if by_module else network, data)
    figures["accuracy_with_averages_anew"] = accuracy(network, test, batch_size=_BATCH)
    # After each module, with the new averages.
    figures["modules"] = by_module.module_accuracies(test, batch_size=_BATCH) if by_module else []
    figures["seconds"] = time.perf_counter() - started
    write_json(path, figures)
    shutil.rmtree(path.with_suffix(""))
    return figures


class _Modules(nn.Module):
    """Local modules one after the other, with their classifiers, so that a pass reaches all layers of both."""

    def __init__(self, modules: Sequence[LocalModule]) -> None:
        super().__init__()
        self.every = nn.ModuleList(nn.ModuleList([each.module, each.classifier or nn.Identity()]) for each in modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module, classifier in self.every:
            x = module(x)
            classifier(x)
        return x


def take_averages_anew(network: nn.Module, data: ImageDataset) -> None:
    """Replace batch normalisation's averages by those of `data` under the present weights, in place.

    The running averages of a training are still those of earlier weights after few steps.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # all batches have equal weight
    count = len(data) // max(1, len(data) // 500)
    with torch.no_grad():
        for start in range(0, len(data) - count + 1, count):
            network(data.tensor(slice(start, start + count)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def transport_cost(network: nn.Module, data: ImageDataset) -> float:
    """Mean over images of the sum over blocks of ‖r‖²/d (the thesis's figure 11 does not divide by d)."""
    discovery = discover(network, data.image_shape)
    total = 0.0
    with torch.inference_mode(), evaluation_mode(network), record_residues(network, discovery) as recording:
        for start in range(0, len(data), _BATCH):
            network(data.tensor(slice(start, start + _BATCH)))
            total += float(recording.statistics[:, :: recording.statistics_spec.columns_per_block].sum())
    return total / len(data)


def _network(setting: Setting, data: ImageDataset, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    inner: nn.Module = NETWORKS.load(setting.network)(num_classes=len(data.classes), **setting.arguments)
    # One mean for all channels, since digits have no colours.
    pixels = data.tensor()
    return Normalized(inner, (float(pixels.mean()),) * 3, (float(pixels.std()),) * 3)
