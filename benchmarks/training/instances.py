"""Many small trainings, each written down as soon as it is done and never done twice.

An instance is one training of a `Setting`: a random subset of the training images, random initial weights and a random
order, all drawn from the instance's number. Two settings with the same number share all three as far as they have them
in common, so that their difference is the objective's.
"""

import ast
import hashlib
import io
import json
import shutil
import time
from collections.abc import Mapping
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
from models.registry import NETWORKS
from models.residuals import discover, evaluation_mode, record_residues
from models.training.loop import accuracy, train
from models.training.recipe import Recipe

__all__ = [
    "Images", "Instance", "Setting", "code_digest", "finished", "run_instance", "take_averages_anew", "transport_cost",
]  # fmt: skip

MODELS = Path(__file__).resolve().parents[2] / "models"
# What the weights of an instance are made by, besides its objective.
_SOURCES = (
    "training.py", "initialization.py", "networks/one_representation_resnet.py", "networks/resnet.py",
    "objectives/base.py", "normalization.py", "datasets/base.py",
)  # fmt: skip
_SOURCES_OF = {
    "least_action": ("residues.py", "discovery.py", "tracing.py"),
    "module_wise": (
        "residues.py", "discovery.py", "tracing.py", "splitting.py", "graphs.py", "auxiliary.py",
        "objectives/_schedule.py", "objectives/least_action.py",
    ),
}  # fmt: skip

# On a CPU, the activations of larger batches of small images leave the cache.
_BATCH = 100


@dataclass(frozen=True)
class Images:
    """Where images come from.

    Args:
        name: of the data set, such as "mnist".
        train: the reference that training subsets are drawn from.
        test: the reference that is tested on; None holds `tested` images of `train` out, the same for every instance.
        tested: how many images are tested on.
        root: folder of downloaded data sets.
    """

    name: str
    train: str
    test: str | None
    tested: int
    root: Path = Path("data")

    def load(self) -> tuple[ImageDataset, ImageDataset]:
        """The pool to draw training subsets from, and the test images; no image is in both.

        Raises:
            InputError: too few images.
        """
        pool = _loaded(self.train, "train", self.root)
        if self.test is not None:
            return pool, _loaded(self.test, "test", self.root).limited(self.tested)
        if len(pool) <= self.tested:
            raise InputError(f"expected more than the {self.tested} images to test on in {self.name}, got {len(pool)}")
        order = np.random.default_rng(0).permutation(len(pool))
        return pool.take(np.sort(order[self.tested :])), pool.take(np.sort(order[: self.tested]))

    def fingerprints(self) -> list[str]:
        """SHA-256 of what is drawn from, and of what is tested on where that comes from elsewhere."""
        named = [(self.train, "train")] + ([(self.test, "test")] if self.test is not None else [])
        return [_fingerprint(reference, split, self.root) for reference, split in named]


@lru_cache(maxsize=16)
def _fingerprint(reference: str, split: Any, root: Path) -> str:
    return _loaded(reference, split, root).fingerprint()


@lru_cache(maxsize=4)
def _loaded(reference: str, split: Any, root: Path) -> ImageDataset:
    return load_dataset(reference, DatasetRequest(split=split, root=root))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What an instance is trained on, and how: JSON values only.

    Args:
        experiment: the table or figure that it belongs to.
        method: the column.
        dataset: a name of `Images`.
        images: number of training images.
        network: a name of `models.networks`.
        arguments: keywords of its constructor besides num_classes.
        objective, options: see `models.objectives`.
        recipe: keywords of `models.training.recipe.Recipe`, without the seed.
        tracked: number of test images that are looked at after every epoch; 0 for none.
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Instance:
    """One training of a setting on these images.

    Args:
        number: from 0; chooses subset, weights and order.
        seed: of all instances.
    """

    setting: Setting
    images: Images
    number: int
    seed: int = 0

    def path(self, work: Path, code: str) -> Path:
        """Where the figures of the instance are written, when the code has this digest."""
        return work / self.setting.experiment / self._key() / f"instance-{self.number:03d}-{code}.json"

    def _key(self) -> str:
        # The name of a method says nothing about the training, and may be written otherwise one day.
        told = {k: v for k, v in self.setting.to_json().items() if k not in ("experiment", "method")}
        told |= {"seed": self.seed, "tested": self.images.tested, "images_sha256": self.images.fingerprints()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def finished(instance: Instance, work: Path, *, any_code: bool = False) -> dict[str, Any] | None:
    """The figures of an instance if it is done; with `any_code` also those of other code, the latest, if need be."""
    path = instance.path(work, code_digest(instance.setting.objective))
    if not path.is_file():
        others = sorted(path.parent.glob(f"instance-{instance.number:03d}-*.json"), key=lambda p: p.stat().st_mtime)
        if not (any_code and others):
            return None
        path = others[-1]
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_instance(instance: Instance, work: Path) -> dict[str, Any]:
    """Train, test, write the figures and give them; an instance that was interrupted goes on after its last epoch.

    Raises:
        InputError: fewer images than the setting asks for.
    """
    setting, seed = instance.setting, instance.seed * 1000 + instance.number
    pool, test = instance.images.load()
    if setting.images > len(pool):
        raise InputError(f"expected at least {setting.images} training images in {setting.dataset}, got {len(pool)}")
    chosen = np.random.default_rng([instance.seed, instance.number]).permutation(len(pool))[: setting.images]
    data = pool.take(np.sort(chosen))
    code = code_digest(setting.objective)
    path = instance.path(work, code)
    started = time.perf_counter()
    network = _network(setting, data, seed)
    objective = build_objective(setting.objective, setting.options)
    tracked = test.limited(setting.tracked) if setting.tracked else None
    # Rows and bars of a thousand epochs say less than one bar over all instances.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        rows = train(network, data, objective, Recipe(**setting.recipe, seed=seed), path.with_suffix(""), test=tracked)
    figures = {
        "setting": setting.to_json(),
        "instance": instance.number,
        "seed": instance.seed,
        "code": code,
        "tested": len(test),
        "tracked": [row["test_accuracy"] for row in rows] if tracked else [],
        "train_accuracy": [row["train_accuracy"] for row in rows],
        "loss": [row["loss"] for row in rows],
        "accuracy": accuracy(network, test, batch_size=_BATCH),
        "transport_cost": transport_cost(network, test),
    }
    take_averages_anew(network, data)
    figures["accuracy_with_averages_anew"] = accuracy(network, test, batch_size=_BATCH)
    figures["seconds"] = time.perf_counter() - started
    write_json(path, figures)
    shutil.rmtree(path.with_suffix(""))
    return figures


def take_averages_anew(network: nn.Module, data: ImageDataset) -> None:
    """Batch normalisation's averages over all of `data`, with the weights as they are now, in place.

    In training they are running averages, which after few steps are still those of weights that are long gone.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # every batch counts alike
    count = len(data) // max(1, len(data) // 500)
    with torch.no_grad():
        for start in range(0, len(data) - count + 1, count):
            network(data.tensor(slice(start, start + count)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def transport_cost(network: nn.Module, data: ImageDataset) -> float:
    """Mean over images of the sum over blocks of ‖r‖²/d: what the thesis's figure 11 shows, by the dimension."""
    discovery = discover(network, data.image_shape)
    total = 0.0
    with torch.inference_mode(), evaluation_mode(network), record_residues(network, discovery) as recording:
        for start in range(0, len(data), _BATCH):
            network(data.tensor(slice(start, start + _BATCH)))
            total += float(recording.statistics[:, :: recording.statistics_spec.columns_per_block].sum())
    return total / len(data)


def code_digest(objective: str) -> str:
    """Which code the weights of an instance are made by; comments, docstrings and layout do not count."""
    names = (*_SOURCES, f"objectives/{objective}.py", *_SOURCES_OF.get(objective, ()))
    digest = hashlib.sha256()
    for name in names:
        tree = ast.parse((MODELS / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def _network(setting: Setting, data: ImageDataset, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    inner: nn.Module = NETWORKS.load(setting.network)(num_classes=len(data.classes), **setting.arguments)
    # One mean for all channels: small sets, and digits in black and white, have no colours to balance.
    pixels = data.tensor()
    return Normalized(inner, (float(pixels.mean()),) * 3, (float(pixels.std()),) * 3)
