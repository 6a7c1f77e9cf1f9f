"""The graph of a network by torch.fx, in which every layer keeps its own mode.

Layers without children stay whole, so that a dropout or a batch normalisation in the graph is the network's own and
follows `train` and `eval`. A module whose code reads its mode stays whole too, since the mode would be a constant in
the graph.
"""

from typing import Any

from torch import Tensor, fx, nn

from models.errors import NetworkError
from models.normalization import Normalized, take_logits

__all__ = ["ROOT", "Entry", "mode_free_graph"]

ROOT = "network"


class Entry(nn.Module):
    """A network whose forward pass takes only the images; its other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return take_logits(self.network(images))


def mode_free_graph(entry: Entry) -> fx.Graph:
    """The graph of ``entry.network``, the same in training and in evaluation.

    Raises:
        NetworkError: its code branches on values, or the network itself differs between the modes.
    """
    closed: set[str] = set()
    while True:
        (evaluation, scopes), (training, other_scopes) = (_graph(entry, closed, mode) for mode in (False, True))
        difference = next(
            (
                pair
                for pair in zip(evaluation.nodes, training.nodes, strict=False)
                if pair[0].format_node() != pair[1].format_node()
            ),
            None,
        )
        if difference is None:
            return evaluation
        owners = _owner(difference[0], scopes), _owner(difference[1], other_scopes)
        owner = _common(*owners)
        if owner in closed or owner in ("", *_roots(entry)):
            raise NetworkError(
                "the network's own code differs between training and evaluation mode; remove auxiliary outputs, and "
                "use layers such as nn.Dropout"
            )
        closed.add(owner)


def _roots(entry: Entry) -> list[str]:
    """The names of the network itself: its own and, if it normalises, that of the network inside."""
    names, network = [ROOT], entry.network
    while isinstance(network, Normalized):
        names.append(f"{names[-1]}.network")
        network = network.network
    return names


class _Tracer(fx.Tracer):
    def __init__(self, closed: set[str]) -> None:
        super().__init__()
        self._closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name == ROOT:
            return False
        childless = next(m.children(), None) is None
        return childless or module_qualified_name in self._closed or super().is_leaf_module(m, module_qualified_name)


def _graph(entry: Entry, closed: set[str], training: bool) -> tuple[fx.Graph, dict[str, str]]:
    """The graph in that mode, and the module of each node, by the node's name."""
    modes = [(module, module.training) for module in entry.modules()]
    tracer = _Tracer(closed)
    try:
        for module, _ in modes:
            module.training = training
        graph = tracer.trace(entry)
    except Exception as exc:  # any code of the network's can fail on symbols, in any way
        raise NetworkError(
            f"torch.fx cannot trace the network: {type(exc).__name__}: {exc}; its forward pass branches on values, or "
            "uses operations without a symbolic form"
        ) from exc
    finally:
        for module, mode in modes:
            module.training = mode
    return graph, {name: path for name, (path, _) in tracer.node_name_to_scope.items()}


def _owner(node: fx.Node, scopes: dict[str, str]) -> str:
    """The module whose code made the node."""
    path = scopes.get(node.name, "")
    return path.rpartition(".")[0] if node.op == "call_module" else path


def _common(one: str, other: str) -> str:
    """The longest common prefix of two dotted names."""
    parts = []
    for ours, theirs in zip(one.split("."), other.split("."), strict=False):
        if ours != theirs:
            break
        parts.append(ours)
    return ".".join(parts)
