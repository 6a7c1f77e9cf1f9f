"""Splitting of an arbitrary network into K consecutive modules that share its layers and parameters.

torch.fx gives the network's graph. A boundary is a tensor on which all later nodes depend through it alone, such as a
residual block's input; boundaries are numbered in execution order. The chosen ones make the modules equally deep or
equally heavy. The composition of the modules calls the same functions in the same order as the network.

A boundary is followed by several users (a block's skip connection and branch), by a layer with weights or by a pooling,
so never by an activation that would overwrite it in place. At least one layer with weights is before each boundary,
between two, and after the last in addition to the layer of the logits. No parameter is on both sides of a boundary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.errors import NetworkError
from models.options import check_choice, check_count
from models.residuals.discovery.discovery import example_images
from models.residuals.hooks import evaluation_mode, require_uncompiled
from models.splitting.graphs import Entry, mode_free_graph
from models.splitting.nodes import dependents, depth_of, feature_axis, is_pooling, overwrites, parameters_of
from models.splitting.shapes import Shapes, ShapesAndActivations

__all__ = ["Boundary", "SplitNetwork", "head_of_network", "split_network"]


@dataclass(frozen=True)
class Boundary:
    """A tensor on which all later nodes depend through it alone.

    Args:
        number: its index among all boundaries of the network, which identifies it.
        shape: without the batch axis.
        channel_axis: the axis of `shape` with the channels or features: 0 after convolutions, the last in transformers.
    """

    number: int
    shape: tuple[int, ...]
    channel_axis: int


@dataclass(frozen=True)
class SplitNetwork:
    """K modules whose composition is the network, and the K − 1 boundaries between them.

    Args:
        modules: in execution order, with the network's own layers and parameters.
        boundaries: ``boundaries[k]`` is between module k and module k + 1.
        depths: layers with weights in each module, without the layer of the logits.
        kept: elements per image that autograd keeps in each module for the backward pass.
        outputs: the number of logits.
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
    """The network as K consecutive modules of sizes as equal as its boundaries allow (least sum of squares).

    The thesis (section 4.5.3) counts parameters for equal memory, so that the early modules become shallower. In a
    ResNet-110, whose early layers have the fewest parameters, that has the opposite effect. The memory of training is
    nearly all activations, and the early layers have the most of these.

    The network is unchanged. Move it to its device before the split: the modules keep references to buffers that the
    network uses outside of a layer.

    Args:
        network: the network.
        image_shape: (channels, height, width) of its images.
        modules: K.
        by: the size of a module: "depth" counts layers with weights, "weight" the elements that autograd keeps per
            image.

    Raises:
        InputError: `modules` is no positive number, or `by` is unknown.
        NetworkError: torch.fx cannot trace the network, it does not return one tensor of logits, or it has too few
            boundaries.
    """
    check_count("modules", modules)
    check_choice("split", by, ("depth", "weight"))
    with _prepared_for_tracing(network):
        line = _Line(network, image_shape)
        most = line.max_modules()
        if modules > most:
            raise NetworkError(
                f"expected at most {most} modules, since no more than {most - 1} places of this network can be cut "
                f"with a layer of weights between any two, got {modules}; use fewer"
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
    """The part from the images to the boundary of that number, as a module that shares the network's layers.

    Shapes are computed without tensor contents, so that large images need no memory.

    Raises:
        NetworkError: as `split_network`, or there is no such boundary.
    """
    with _prepared_for_tracing(network), torch.no_grad():
        line = _Line(network, image_shape, contents=False)
        if not 0 <= number < len(line.cuts):
            raise NetworkError(
                f"expected the number of a boundary below {len(line.cuts)}, got {number}; this network was cut before "
                "it was changed, or is another"
            )
        position = line.cuts[number]
        return line.part(0, position + 1), line.boundary(position)


@contextmanager
def _prepared_for_tracing(network: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients for every parameter, since frozen ones would change what autograd keeps."""
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
    """The nodes that depend on the images, in order, and the positions of the possible cuts.

    A cut is the position, in `nodes`, of the node whose value is the boundary. Without `contents`, only shapes are
    computed: the cuts are the same, but the kept elements are unknown.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int], *, contents: bool = True) -> None:
        self._entry = Entry(network)
        graph = mode_free_graph(self._entry)
        self._images, *_, self._output = graph.nodes
        # Not on the meta device, since a network may keep tensors outside of its parameters and buffers.
        with nullcontext() if contents else FakeTensorMode(allow_non_fake_inputs=True):
            self._batch = example_images(network, image_shape)
            module = fx.GraphModule(self._entry, graph)
            run = (ShapesAndActivations if contents else Shapes)(module, self._batch)
        self._shapes, kept = run.shapes, run.kept
        logits = self._output.args[0]
        if not isinstance(logits, fx.Node) or len(self._shapes.get(logits, ())) != 2:
            raise NetworkError(
                "expected a network that gives one tensor of logits (B, K), got another structure or shape; wrap it "
                "in a module that gives the logits alone"
            )
        self.outputs = self._shapes[logits][1]
        dependent = dependents(self._images)
        self.nodes = [node for node in graph.nodes if node in dependent and node is not self._output]
        depths = [depth_of(self._entry, node, dependent) for node in self.nodes]
        last = max((index for index, depth in enumerate(depths) if depth), default=0)
        depths[last] -= 1 if depths[last] else 0  # without the layer of the logits
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
        """Positions after which only the value of that node is used."""
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
            for parameter in parameters_of(self._entry, node, dependent):
                uses.setdefault(id(parameter), []).append(index)
        return [(places[0], places[-1]) for places in uses.values() if places[0] != places[-1]]

    def _may_follow(self, position: int) -> bool:
        node, shape = self.nodes[position], self._shapes.get(self.nodes[position], ())
        if len(shape) < 2 or shape[0] != len(self._batch) or any(overwrites(self._entry, u, node) for u in node.users):
            return False
        if not (self._depths[position + 1] and self._depths[-1] - self._depths[position + 1]):
            return False
        if len(node.users) > 1:
            return True
        (user,) = node.users
        return is_pooling(self._entry, user) or bool(depth_of(self._entry, user, set(self.nodes)))

    def max_modules(self) -> int:
        count, done = 1, 0
        for position in self.cuts:
            depth = self._depths[position + 1]
            if depth > done and self._depths[-1] > depth:
                count, done = count + 1, depth
        return count

    def even_cuts(self, modules: int, by: Literal["depth", "weight"]) -> list[int]:
        """The cuts with the least sum of squared sizes, by dynamic programming; each module has weights."""
        sizes = self._depths if by == "depth" else self._kept
        ends = [0, *(position + 1 for position in self.cuts), len(self.nodes)]
        # best[j]: the least sum for the nodes before ends[j], and the chosen ends.
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
        """From the nearest layer with as many features as the size of an axis: first after, then before the cut."""
        behind, before = self.nodes[position + 1 :], reversed(self.nodes[: position + 1])
        for nodes, going_in in ((behind, True), (before, False)):
            layers = (self._entry.get_submodule(str(node.target)) for node in nodes if node.op == "call_module")
            for axis in (feature_axis(layer, shape, going_in=going_in) for layer in layers):
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
        """The nodes from `start` to before `end`, with the nodes they need that do not depend on the images."""
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
        """Reject a graph whose frozen control flow computes other logits."""
        with torch.no_grad():
            expected, got = network(self._batch.clone()), self._batch.clone()
            for part in parts:
                got = part(got)
        if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise NetworkError(
                "the network's graph computes other logits than the network; its forward pass has control flow that "
                "torch.fx cannot trace"
            )
