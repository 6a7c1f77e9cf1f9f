"""Cuts a network of any make into K consecutive modules that share its layers and parameters.

The network's graph is taken by torch.fx. It may be cut where everything that comes from the image passes through one
tensor, such as a residual block's input: these places are its boundaries, numbered in execution order. Of them, those
are chosen that make the modules equally deep or equally heavy. One module after the other computes what the network
computes, by the same functions in the same order.

A boundary is followed by several users (a block's skip and branch) or by a layer with weights or a pooling, so never
by an activation that would overwrite it in place. At least one layer with weights lies before each boundary, between
two, and behind the last besides the layer that gives the logits. No parameter is on both sides of a boundary.
"""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from models.errors import NetworkError
from models.options import check_choice, check_count
from models.residuals.discovery.discovery import example_images
from models.residuals.hooks import evaluation_mode, require_uncompiled
from models.splitting.graphs import Entry, mode_free_graph

__all__ = ["Boundary", "SplitNetwork", "head_of_network", "split_network"]


@dataclass(frozen=True)
class Boundary:
    """A tensor through which everything that comes from the image passes.

    Args:
        number: its place among all boundaries of the network, from 0, by which it is found again.
        shape: without the batch axis.
        channel_axis: the axis of `shape` whose places are channels or features: 0 behind convolutions, the last one in
            transformers.
    """

    number: int
    shape: tuple[int, ...]
    channel_axis: int


@dataclass(frozen=True)
class SplitNetwork:
    """K modules whose composition is the network, and the K − 1 boundaries between them.

    Args:
        modules: in execution order; they hold the network's own layers and parameters, so what trains one trains it.
        boundaries: ``boundaries[k]`` is what module k gives to module k + 1.
        depths: layers with weights in each module, without the layer that gives the logits.
        kept: elements per image that autograd keeps in each module for the backward pass.
        outputs: how many logits the last module gives.
    """

    modules: tuple[fx.GraphModule, ...]
    boundaries: tuple[Boundary, ...]
    depths: tuple[int, ...]
    kept: tuple[float, ...]
    outputs: int


def split_network(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    modules: int,
    by: Literal["depth", "weight"] = "depth",
) -> SplitNetwork:
    """The network as K consecutive modules, as equal as its boundaries let them be (least sum of squares).

    With "depth", the layers with weights count. With "weight", the elements that autograd keeps per image do: the
    thesis (section 4.5.3) speaks of counting parameters, so that the early modules become the shallower ones and all
    need the same memory. Parameters do the reverse in a ResNet-110, whose early layers have the fewest; what it takes
    to train a module is nearly all activations, and of these the early layers have the most.

    The network is left as found. Move it to its device before; moved afterwards, the modules would keep its old
    buffers where the network uses one outside of a layer.

    Raises:
        InputError: `modules` is no positive number, or `by` is unknown.
        NetworkError: its graph cannot be taken, does not give one tensor of logits, or has too few boundaries.
    """
    check_count("modules", modules)
    check_choice("split", by, ("depth", "weight"))
    with _to_be_read(network):
        line = _Line(network, image_shape)
        most = line.most_modules()
        if modules > most:
            raise NetworkError(
                f"expected at most {most} modules, since no more than {most - 1} places of this network can be cut "
                f"with a layer of weights between any two, got {modules}; ask for fewer"
            )
        chosen = line.even_cuts(modules, by)
        parts = line.parts(chosen)
        line.compare(network, parts)
        ends = [0, *(position + 1 for position in chosen), len(line.nodes)]
        return SplitNetwork(
            parts,
            tuple(line.boundary(position) for position in chosen),
            tuple(line.depth_between(*pair) for pair in pairwise(ends)),
            tuple(line.kept_between(*pair) for pair in pairwise(ends)),
            line.outputs,
        )


def head_of_network(
    network: nn.Module, image_shape: tuple[int, int, int], number: int
) -> tuple[fx.GraphModule, Boundary]:
    """Everything from the images to the boundary of that number, as a module that shares the network's layers.

    Shapes are found without any contents, so that no size of the images costs memory.

    Raises:
        NetworkError: as `split_network`, or there is no such boundary.
    """
    with _to_be_read(network), torch.no_grad():
        line = _Line(network, image_shape, contents=False)
        if not 0 <= number < len(line.cuts):
            raise NetworkError(
                f"expected the number of a boundary below {len(line.cuts)}, got {number}; this network was cut before "
                "it was changed, or is another"
            )
        position = line.cuts[number]
        return line.part(0, position + 1), line.boundary(position)


@contextmanager
def _to_be_read(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every parameter learning: what autograd keeps does not depend on what is frozen."""
    require_uncompiled(network)
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    devices = [p.device for p, _ in flags[:1] if p.device.type == "cuda"]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        with (
            evaluation_mode(network),
            torch.random.fork_rng(devices=devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        for parameter, learning in flags:
            parameter.requires_grad_(learning)


class _Line:
    """The functions that the image passes through, in order, and between which of them the network may be cut.

    A cut is the position, in `nodes`, of the node whose value is the boundary. Without `contents` nothing is computed:
    the places are the same, but what autograd keeps is not known.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int], *, contents: bool = True) -> None:
        self._entry = Entry(network)
        graph = mode_free_graph(self._entry)
        self._images, *_, self._output = graph.nodes
        # Not on the meta device, since a network may keep tensors outside of its parameters and buffers.
        with nullcontext() if contents else FakeTensorMode(allow_non_fake_inputs=True):
            self._batch = example_images(network, image_shape)
            module = fx.GraphModule(self._entry, graph)
            requested = _Measured(module, self._batch) if contents else _Shapes(module, self._batch)
        self._shapes, kept = requested.shapes, requested.kept
        logits = self._output.args[0]
        if not isinstance(logits, fx.Node) or len(self._shapes.get(logits, ())) != 2:
            raise NetworkError(
                "expected a network that gives one tensor of logits (B, K), got another structure or shape; wrap it "
                "in a module that gives the logits alone"
            )
        self.outputs = self._shapes[logits][1]
        dependent = _dependents(self._images)
        self.nodes = [node for node in graph.nodes if node in dependent and node is not self._output]
        depths = [_depth(self._entry, node, dependent) for node in self.nodes]
        last = max((index for index, depth in enumerate(depths) if depth), default=0)
        depths[last] -= 1 if depths[last] else 0  # the layer that gives the logits belongs to no boundary's far side
        self._depths = list(accumulate(depths, initial=0))
        self._kept = list(accumulate((kept[node] / len(self._batch) for node in self.nodes), initial=0.0))
        self.cuts = [position for position in self._single_values(dependent) if self._may_follow(position)]

    def depth_between(self, start: int, end: int) -> int:
        return self._depths[end] - self._depths[start]

    def kept_between(self, start: int, end: int) -> float:
        return self._kept[end] - self._kept[start]

    def boundary(self, position: int) -> Boundary:
        shape = self._shapes[self.nodes[position]][1:]
        return Boundary(self.cuts.index(position), shape, self._channel_axis(position, shape))

    # --- where to cut

    def _single_values(self, dependent: set[fx.Node]) -> Iterator[int]:
        """Positions behind which nothing but that node's own value is used."""
        place = {node: index for index, node in enumerate(self.nodes)}
        place[self._output] = len(self.nodes)
        needed_until = -1
        spans = self._spans_of_parameters(dependent)
        for index, node in enumerate(self.nodes):
            last_use = max((place[user] for user in node.users), default=-1)
            if needed_until <= index < last_use and not any(first <= index < last for first, last in spans):
                yield index
            needed_until = max(needed_until, last_use)

    def _spans_of_parameters(self, dependent: set[fx.Node]) -> list[tuple[int, int]]:
        """First and last use of each parameter that is used more than once."""
        uses: dict[int, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for parameter in _parameters(self._entry, node, dependent):
                uses.setdefault(id(parameter), []).append(index)
        return [(places[0], places[-1]) for places in uses.values() if places[0] != places[-1]]

    def _may_follow(self, position: int) -> bool:
        node, shape = self.nodes[position], self._shapes.get(self.nodes[position], ())
        if len(shape) < 2 or shape[0] != len(self._batch) or any(_overwrites(self._entry, u, node) for u in node.users):
            return False
        if not (self._depths[position + 1] and self._depths[-1] - self._depths[position + 1]):
            return False
        if len(node.users) > 1:
            return True
        (user,) = node.users
        return _is_pooling(self._entry, user) or bool(_depth(self._entry, user, set(self.nodes)))

    def most_modules(self) -> int:
        count, done = 1, 0
        for position in self.cuts:
            depth = self._depths[position + 1]
            if depth > done and self._depths[-1] > depth:
                count, done = count + 1, depth
        return count

    def even_cuts(self, modules: int, by: Literal["depth", "weight"]) -> list[int]:
        """The cuts that give the least sum of squared sizes, each module with at least one layer of weights."""
        sizes = self._depths if by == "depth" else self._kept
        ends = [0, *(position + 1 for position in self.cuts), len(self.nodes)]
        # best[j]: the least sum for the nodes before ends[j], and the ends chosen on the way there.
        best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
        for _ in range(modules):
            following: dict[int, tuple[float, tuple[int, ...]]] = {}
            for j, end in enumerate(ends):
                ways = [
                    (total + (sizes[end] - sizes[ends[i]]) ** 2, (*way, end))
                    for i, (total, way) in best.items()
                    if i < j and self.depth_between(ends[i], end) > 0
                ]
                if ways:
                    following[j] = min(ways)
            best = following
        return [end - 1 for end in best[len(ends) - 1][1][:-1]]

    def _channel_axis(self, position: int, shape: tuple[int, ...]) -> int:
        """Told by the nearest layers whose number of features is that of an axis: first those behind, then before."""
        behind, before = self.nodes[position + 1 :], reversed(self.nodes[: position + 1])
        for nodes, going_in in ((behind, True), (before, False)):
            layers = (self._entry.get_submodule(str(node.target)) for node in nodes if node.op == "call_module")
            for axis in (_feature_axis(layer, shape, going_in=going_in) for layer in layers):
                if axis == "other":
                    break
                if axis is not None:
                    return 0 if axis == "first" else len(shape) - 1
        return 0

    # --- cutting

    def parts(self, chosen: Sequence[int]) -> tuple[fx.GraphModule, ...]:
        ends = [0, *(position + 1 for position in chosen), len(self.nodes)]
        return tuple(self.part(start, end) for start, end in pairwise(ends))

    def part(self, start: int, end: int) -> fx.GraphModule:
        """The nodes from `start` until before `end`, and what they need that does not depend on the image."""
        graph = fx.Graph()
        given = self.nodes[start - 1] if start else self._images
        copies = {given: graph.placeholder("inputs")}

        def copied(node: fx.Node) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copied)
            return copies[node]

        for node in self.nodes[start:end]:
            copied(node)
        result = self.nodes[end - 1] if end < len(self.nodes) else self._output.args[0]
        assert isinstance(result, fx.Node)
        graph.output(copies[result])
        graph.lint()
        return fx.GraphModule(self._entry, graph)

    def compare(self, network: nn.Module, parts: Sequence[nn.Module]) -> None:
        """Refuses a graph in which the network's control flow was frozen the wrong way."""
        with torch.no_grad():
            expected, got = network(self._batch.clone()), self._batch.clone()
            for part in parts:
                got = part(got)
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise NetworkError(
                "expected the network's graph to compute what the network does, but its logits are others; its forward "
                "pass has control flow that torch.fx cannot follow"
            )


class _Shapes(fx.Interpreter):
    """Shapes of all tensors of a pass."""

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.kept = dict.fromkeys(module.graph.nodes, 0)
        try:
            self.run(images.clone())
        except Exception as exc:  # any code of the network's can fail, in any way
            raise NetworkError(
                f"expected a network that takes images of shape {tuple(images.shape[1:])}, but its forward pass "
                f"failed: {type(exc).__name__}: {exc}; give the size that it was made for"
            ) from exc

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


class _Measured(_Shapes):
    """The same, and how many elements autograd newly keeps at each node; memory is counted once."""

    def __init__(self, module: fx.GraphModule, images: Tensor) -> None:
        self._seen = {_address(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._values: list[Any] = []
        super().__init__(module, images)
        self._values.clear()

    def run_node(self, n: fx.Node) -> Any:
        def pack(tensor: Tensor) -> Tensor:
            if _address(tensor) not in self._seen:
                self._seen.add(_address(tensor))
                self.kept[n] += tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = super().run_node(n)
        # Kept alive to the end, since memory that is used anew has an address that was seen.
        self._values.append(result)
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _dependents(images: fx.Node) -> set[fx.Node]:
    """All nodes that need the images, but not these."""
    found: set[fx.Node] = set()
    waiting = list(images.users)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.users
    return found


def _parameters(entry: Entry, node: fx.Node, dependent: set[fx.Node]) -> Iterator[nn.Parameter]:
    """What a node learns by: its module's parameters, and those that reach it without the image."""
    if node.op == "call_module":
        yield from entry.get_submodule(str(node.target)).parameters()
    if node.op == "get_attr" and isinstance(value := operator.attrgetter(str(node.target))(entry), nn.Parameter):
        yield value
    for given in node.all_input_nodes:
        if given not in dependent and given.op != "placeholder":
            yield from _parameters(entry, given, dependent)


def _depth(entry: Entry, node: fx.Node, dependent: set[fx.Node]) -> int:
    """Layers with weights in a node: kernels and matrices, not scales, shifts or positions that are added."""
    if node.op == "call_module":
        inner = entry.get_submodule(str(node.target)).modules()
        return sum(any(map(_is_matrix, module.parameters(recurse=False))) for module in inner)
    if node.target in (operator.add, operator.iadd, torch.add) or node.op == "get_attr":
        return 0
    return int(any(map(_is_matrix, _parameters(entry, node, dependent))))


def _is_matrix(parameter: Tensor) -> bool:
    return sum(size > 1 for size in parameter.shape) > 1


def _overwrites(entry: Entry, user: fx.Node, node: fx.Node) -> bool:
    """Whether the user changes the node's value in place."""
    if not user.args or user.args[0] is not node:
        return False
    if user.op == "call_module":
        return bool(getattr(entry.get_submodule(str(user.target)), "inplace", False))
    name = str(getattr(user.target, "__name__", user.target))
    in_place = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return user.kwargs.get("inplace") is True or user.target in in_place or name.rstrip("_") == name[:-1]


def _is_pooling(entry: Entry, node: fx.Node) -> bool:
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


def _feature_axis(layer: nn.Module, shape: tuple[int, ...], *, going_in: bool) -> str | None:
    """Where a layer has its features, if it is one that tells; "other" where they are not the shape's."""
    if type(layer) is nn.LayerNorm:
        return "last" if layer.normalized_shape[-1] == shape[-1] else "other"
    for kind, into, out_of, axis in _FEATURES:
        if isinstance(layer, kind):
            features = getattr(layer, into if going_in else out_of)
            return axis if features == shape[0 if axis == "first" else -1] else "other"
    return None
