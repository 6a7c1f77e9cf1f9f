"""The state of a training run on disk."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.errors import CheckpointError
from models.files import json_bytes, sha256_of, write_files
from models.objectives.base import Objective
from models.training.depth import AdaptiveDepth
from models.training.recipe import Recipe

__all__ = ["SavedState", "identity_of"]

# Recipes had fewer fields in earlier versions. The defaults of the later fields are the earlier behaviour, so they are
# not part of the identity and runs of earlier versions can continue.
_LATER_FIELDS = frozenset({"optimizer", "nesterov", "milestones", "decay", "initialization", "gain", "cutout", "sizes"})


def identity_of(
    network: nn.Module,
    data: ImageDataset,
    recipe: Recipe,
    objective: Objective,
    described: Mapping[str, Any] | None,
    depth: AdaptiveDepth | None = None,
) -> dict[str, Any]:
    """The JSON values that must be equal for a run to continue.

    Args:
        network: names and shapes of its parameters count.
        data: the training images.
        recipe: the recipe.
        objective: its class and options count.
        described: further values that describe the network; None for none.
        depth: its rule counts; None for a fixed depth.
    """
    default = asdict(Recipe())
    fields = {name: v for name, v in asdict(recipe).items() if name not in _LATER_FIELDS or v != default[name]}
    parameters = {name: list(p.shape) for name, p in network.named_parameters()}
    identity = {
        "recipe": fields,
        "data": data.fingerprint(),
        "objective": [type(objective).__name__, objective.options()],
        "parameters": parameters,
    }
    if depth is not None:
        identity["depth"] = depth.options()
    return identity if described is None else {**identity, "network": described}


class SavedState:
    """The state after the last complete epoch: tensors in a safetensors file, and its SHA-256 in a JSON file.

    Args:
        folder: where the files are.
        identity: see `identity_of`.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))

    def write(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        rows: list[dict[str, float]],
        depth: AdaptiveDepth | None = None,
    ) -> None:
        """Replace the saved state; each epoch has a tensor file of its own, so that a crash leaves a usable state."""
        named = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        named |= {f"objective.{name}": tensor for name, tensor in objective.tensors().items()}
        named |= {f"optimizer.{name}": tensor for name, tensor in _optimizer_tensors(optimizer).items()}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
        path = self.folder / f"epoch-{len(rows):04d}.safetensors"
        content = save(tensors)
        header = {
            "identity": self.identity, "rows": rows, "objective": objective.state(),
            "sha256": hashlib.sha256(content).hexdigest(), **({} if depth is None else {"depth": depth.state()}),
        }  # fmt: skip
        write_files(self.folder, {path.name: content, "state.json": json_bytes(header)})
        for old in self.folder.glob("epoch-*.safetensors"):
            if old != path:
                old.unlink()

    def restore_depth(self, depth: AdaptiveDepth) -> None:
        """Restore the blocks of the network, before `restore`; nothing if there is no state.

        Raises:
            CheckpointError: the state belongs to another run, or cannot be read.
        """
        if (header := self._header()) is not None:
            depth.load_state(header["depth"])

    def restore(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective
    ) -> list[dict[str, float]]:
        """Restore the saved state, and return the rows of the completed epochs; no rows if there is no state.

        Raises:
            CheckpointError: the state belongs to another run, is damaged or was changed.
        """
        if (header := self._header()) is None:
            return []
        rows: list[dict[str, float]] = header["rows"]
        path, sha256 = self.folder / f"epoch-{len(rows):04d}.safetensors", header["sha256"]
        if not path.is_file() or sha256_of(path) != sha256:
            raise CheckpointError(
                f"{path}: expected the state with SHA-256 {sha256}; the file is missing or was changed"
            )
        tensors = load_file(path)
        network.load_state_dict(_under("network.", tensors))
        objective.load_tensors(_under("objective.", tensors))
        # Earlier versions had another name for SGD's momentum.
        momentum = {f"{number}.momentum_buffer": tensor for number, tensor in _under("momentum.", tensors).items()}
        _load_optimizer_tensors(optimizer, _under("optimizer.", tensors) | momentum)
        objective.load_state(header["objective"])
        return rows

    def _header(self) -> dict[str, Any] | None:
        """The JSON values of the saved state, which is of this run; None if there is none."""
        path = self.folder / "state.json"
        if not path.is_file():
            return None
        try:
            header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            # States of earlier versions have no description of the network.
            same = {"network": self.identity.get("network"), **header["identity"]} == {"network": None, **self.identity}
            complete = isinstance(header["rows"], list) and isinstance(header["sha256"], str)
        except (ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"{path}: the state of the run cannot be read; remove it") from exc
        if not complete:
            raise CheckpointError(f"{path}: the state of the run cannot be read; remove it")
        if not same:
            raise CheckpointError(
                f"{self.folder} holds a run with another recipe, data set or network; choose another --out or remove it"
            )
        return header


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``PARAMETER.NAME``, with the parameter's index."""
    state: dict[int, dict[str, Tensor | None]] = optimizer.state_dict()["state"]
    return {f"{n}.{name}": t for n, values in state.items() for name, t in values.items() if t is not None}


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    loaded: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        number, _, kind = name.partition(".")
        loaded[int(number)][kind] = tensor
    optimizer.load_state_dict({**state, "state": dict(loaded)})
