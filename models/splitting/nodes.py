"""Properties of the nodes of a graph: parameters, depth, in-place changes, feature axes."""

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from models.splitting.graphs import Entry

__all__ = ["dependents", "depth_of", "feature_axis", "is_pooling", "overwrites", "parameters_of"]


def dependents(images: fx.Node) -> set[fx.Node]:
    """All nodes that depend on the images, without the images themselves."""
    found: set[fx.Node] = set()
    waiting = list(images.users)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.users
    return found


def parameters_of(entry: Entry, node: fx.Node, dependent: set[fx.Node]) -> Iterator[nn.Parameter]:
    """The parameters of a node's module, and those among its arguments that do not depend on the images."""
    if node.op == "call_module":
        yield from entry.get_submodule(str(node.target)).parameters()
    if node.op == "get_attr" and isinstance(value := operator.attrgetter(str(node.target))(entry), nn.Parameter):
        yield value
    for argument in node.all_input_nodes:
        if argument not in dependent and argument.op != "placeholder":
            yield from parameters_of(entry, argument, dependent)


def depth_of(entry: Entry, node: fx.Node, dependent: set[fx.Node]) -> int:
    """The number of layers with kernels or matrices in a node, without scales, shifts and positional embeddings."""
    if node.op == "call_module":
        inner = entry.get_submodule(str(node.target)).modules()
        return sum(any(map(_is_matrix, module.parameters(recurse=False))) for module in inner)
    if node.target in (operator.add, operator.iadd, torch.add) or node.op == "get_attr":
        return 0
    return int(any(map(_is_matrix, parameters_of(entry, node, dependent))))


def _is_matrix(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1


def overwrites(entry: Entry, user: fx.Node, node: fx.Node) -> bool:
    """Whether the user changes the node's value in place."""
    if not user.args or user.args[0] is not node:
        return False
    if user.op == "call_module":
        return bool(getattr(entry.get_submodule(str(user.target)), "inplace", False))
    name = str(getattr(user.target, "__name__", user.target))
    in_place = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return user.kwargs.get("inplace") is True or user.target in in_place or name.rstrip("_") == name[:-1]


def is_pooling(entry: Entry, node: fx.Node) -> bool:
    """Whether a node is a pooling layer or function."""
    if node.op == "call_module":
        return "Pool" in type(entry.get_submodule(str(node.target))).__name__
    return "pool" in str(getattr(node.target, "__name__", node.target))


_FEATURES: tuple[tuple[type, str, str, str], ...] = (
    (nn.modules.conv._ConvNd, "in_channels", "out_channels", "first"),
    (nn.modules.batchnorm._NormBase, "num_features", "num_features", "first"),
    (nn.GroupNorm, "num_channels", "num_channels", "first"),
    (nn.Linear, "in_features", "out_features", "last"),
    (nn.MultiheadAttention, "embed_dim", "embed_dim", "last"),
)


def feature_axis(layer: nn.Module, shape: tuple[int, ...], *, going_in: bool) -> str | None:
    """The feature axis of a layer: "first", "last", or "other" if it does not match the shape; None if unknown."""
    if type(layer) is nn.LayerNorm:
        return "last" if layer.normalized_shape[-1] == shape[-1] else "other"
    for kind, into, out_of, axis in _FEATURES:
        if isinstance(layer, kind):
            features = getattr(layer, into if going_in else out_of)
            return axis if features == shape[0 if axis == "first" else -1] else "other"
    return None
