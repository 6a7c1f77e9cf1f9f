"""Weights of a file into a network: the choice of the dictionary, and of the prefix of its keys, that fit exactly."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import CheckpointError, NetworkError
from models.loading.weight_files import has_pickled_module, read_weights, tensor_groups

__all__ = ["WeightsMismatchError", "load_weights"]

# Keys that change nothing in evaluation mode, or that profilers and averaged models add.
_NEEDLESS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
_SHOWN = 4


class WeightsMismatchError(NetworkError):
    """Weights of another network.

    Args:
        message: see `Exception`.
        num_classes: rows of the last layer in the file, if the number of classes is all that differs; else None.
    """

    def __init__(self, message: str, num_classes: int | None = None) -> None:
        super().__init__(message)
        self.num_classes = num_classes


@dataclass(frozen=True)
class _Candidate:
    """Tensors of one dictionary in a file, with their names in the network.

    Args:
        group: the dictionary's keys, joined with dots; "" for the outermost.
        stripped, added: what is removed from, and put before, its keys.
        tensors: by name in the network.
        others: tensors of the dictionary whose keys have another prefix.
    """

    group: str
    stripped: str
    added: str
    tensors: Mapping[str, Tensor]
    others: int

    @property
    def label(self) -> str:
        return f"{self.group}.{self.stripped}".strip(".") or "the outermost dictionary"

    def faults(self, wanted: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
        """(missing, unexpected, of another shape or type): names in the network."""
        tied = {_place(wanted[name]) for name in self.tensors if name in wanted}  # has several names, one is enough
        missing = [n for n in wanted if n not in self.tensors and _place(wanted[n]) not in tied]
        unexpected = [n for n in self.tensors if n not in wanted and not n.endswith(_NEEDLESS)]
        changed = [n for n in wanted if n in self.tensors and not _fits(self.tensors[n], wanted[n])]
        missing, changed = ([n for n in names if not n.endswith(_NEEDLESS)] for names in (missing, changed))
        return missing, unexpected, changed


def load_weights(network: nn.Module, path: Path, reference: str) -> tuple[str, ...]:
    """Load the weights of a file into `network`; returns notes for the user about the choices made.

    The file may have several dictionaries (``state_dict``, ``model``, ``ema``), and their keys a prefix (``module.``,
    ``_orig_mod.``, ``model.``). The dictionary and the prefix are those with which names and shapes fit exactly. Of
    several that fit, averaged weights ("ema" in the name) come first, then the order in the file. Numbers are converted
    to the types of the network.

    Args:
        network: the network; unchanged after an error.
        path: the file.
        reference: of the network, for messages.

    Raises:
        InputError: no such file.
        CheckpointError: it cannot be read, has no weights, or weights with NaN or infinity.
        WeightsMismatchError: no dictionary in it fits.
    """
    content = read_weights(path)
    groups = tensor_groups(content)
    if not groups:
        fault = (
            "a pickled network, which needs code to be read" if has_pickled_module(content) else "no state dictionary"
        )
        raise CheckpointError(
            f"{path}: the file has {fault}; save the weights alone: torch.save(network.state_dict(), 'weights.pt')"
        )
    # With `keep_vars`, tied parameters are the same object.
    wanted = {name: tensor for name, tensor in network.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    candidates = list(_candidates(groups, wanted))
    fitting = [candidate for candidate in candidates if not any(candidate.faults(wanted))]
    if not fitting:
        raise _mismatch(path, candidates, wanted, reference)
    fitting.sort(key=lambda candidate: "ema" not in candidate.label.lower().replace("_", ".").split("."))
    chosen, *rest = fitting
    _require_finite(path, chosen.tensors)
    network.load_state_dict({name: chosen.tensors[name] for name in wanted if name in chosen.tensors}, strict=False)
    return tuple(_notes(path, chosen, [each for each in rest if not _equal(chosen, each)]))


def _candidates(groups: Mapping[str, Mapping[str, Tensor]], wanted: Mapping[str, Tensor]) -> Iterator[_Candidate]:
    for group, tensors in groups.items():
        for stripped, added in _prefixes(tensors, wanted):
            renamed = {
                added + name.removeprefix(stripped): tensor
                for name, tensor in tensors.items()
                if name.startswith(stripped)
            }
            needless = sum(name.endswith(_NEEDLESS) and not name.startswith(stripped) for name in tensors)
            yield _Candidate(group, stripped, added, renamed, len(tensors) - len(renamed) - needless)


def _prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(prefix to remove, prefix to add) of keys, no change first."""
    probe = max((name for name in wanted if not name.endswith(_NEEDLESS)), key=len, default="")
    stripped = [name.removesuffix(probe) for name in tensors if probe and name.endswith(f".{probe}")]
    longest = max(tensors, key=len)
    added = [name.removesuffix(longest) for name in wanted if name.endswith(f".{longest}")]
    added = [prefix for prefix in added if all(name.startswith(prefix) for name in wanted)]
    return [("", ""), *((prefix, "") for prefix in stripped), *(("", prefix) for prefix in added)]


def _mismatch(
    path: Path, candidates: list[_Candidate], wanted: Mapping[str, Tensor], reference: str
) -> WeightsMismatchError:
    """The error for the candidate with the fewest faults."""
    nearest = min(candidates, key=lambda each: sum(map(len, each.faults(wanted))) + each.others)
    missing, unexpected, changed = nearest.faults(wanted)
    shapes = [f"{n} {_described(nearest.tensors[n])} instead of {_described(wanted[n])}" for n in changed]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    heads = {(nearest.tensors[name].shape[:1], wanted[name].shape[:1]) for name in changed}
    classes = None
    remedy = "give the function or name of the network that these weights were saved from"
    if len(heads) == 1 and not missing and not unexpected:
        ((file_rows, network_rows),) = heads
        if (
            file_rows
            and network_rows
            and file_rows != network_rows
            and _same_but_rows(nearest.tensors, wanted, changed)
        ):
            classes = file_rows[0]
            remedy = (
                f"the file is for {classes} classes and the network for {network_rows[0]}; give both the same number"
            )
    return WeightsMismatchError(
        f"{reference}: the weights in {path.name} do not fit the network, whose state has {len(wanted)} tensors: "
        f"{', '.join(parts)}; {remedy}",
        classes,
    )


def _same_but_rows(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: list[str]) -> bool:
    return all(tensors[name].shape[1:] == wanted[name].shape[1:] for name in names)


def _notes(path: Path, chosen: _Candidate, rest: list[_Candidate]) -> Iterator[str]:
    if rest:
        others = ", ".join(each.label for each in rest)
        yield (
            f"{path.name}: took the weights in {chosen.label}; those in {others} fit too: to use them, save them to a "
            "file of their own"
        )
    if chosen.others:
        yield f"{path.name}: took the weights in {chosen.label} and left {chosen.others} other tensors out"


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: the weights have NaN or infinity in {name}; use an earlier checkpoint")


def _place(tensor: Tensor) -> object:
    """Equal for tensors that share their memory."""
    return (tensor.data_ptr(), tensor.shape) if tensor.numel() else id(tensor)


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    same_kind = tensor.is_floating_point() == wanted.is_floating_point() and not tensor.is_quantized
    return tensor.shape == wanted.shape and same_kind


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _equal(one: _Candidate, other: _Candidate) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )
