"""Rewriting of a network's graph, so that it returns statistics of its path in addition to its output.

torch.fx traces the graph symbolically. To find the residues among its nodes, the graph runs node by node under the
tracer of discovery, and its sums (or layers) are matched in order with those of the network. The result is compared
with a reference before it is returned, so a graph with wrongly frozen control flow is rejected.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.errors import PlumblineError
from models.residuals.discovery.branches import Branch, Discovery
from models.residuals.discovery.discovery import example_images
from models.residuals.discovery.sites import Site, sites
from models.residuals.hooks import evaluation_mode
from models.residuals.pooling import pooled
from models.residuals.statistics import BlockTensor, finish, fixed_directions, reduce_residue
from models.residuals.tracing.trace import Trace
from models.residuals.tracing.tracer import Tracer, trace

__all__ = ["NotRewritableError", "rewrite"]


class NotRewritableError(PlumblineError):
    """The network has no symbolic graph with equal results; the message states the reason."""


def rewrite(
    network: nn.Module,
    discovery: Discovery,
    *,
    quantity: BlockTensor,
    directions: int,
    pool: bool,
    image_shape: tuple[int, int, int],
    reference: Callable[[Tensor], tuple[Any, ...]],
) -> fx.GraphModule:
    """A module from images to ``(output, statistics)`` that shares the network's parameters and modules.

    Args:
        network: the network.
        discovery: its branches.
        quantity, directions: see `models.residuals.StatisticsSpec`.
        pool: return ``(output, statistics, embeddings, residues)``, the latter two pooled, block by block.
        image_shape: (3, H, W) of the images for the comparison.
        reference: a function with the expected results.

    Raises:
        NotRewritableError: torch.fx cannot trace the network, its sums are not the network's, or its results differ.
    """
    images = example_images(network, image_shape)
    with evaluation_mode(network), torch.random.fork_rng(devices=[]):
        try:
            tracer = _ThreadTracer()
            graph_module = fx.GraphModule(network, tracer.trace(network), type(network).__name__)
        except Exception as exc:  # any code of the network's can fail on symbols, in any way
            raise NotRewritableError(f"torch.fx cannot take the graph: {type(exc).__name__}: {exc}") from exc
        with evaluation_mode(graph_module):
            nodes = _Nodes(graph_module)
            nodes.run_traced(images)
            original = trace(network, images)
            _insert(graph_module, nodes, original, discovery, quantity, directions, pool)
            with torch.no_grad():
                _compare(graph_module(images), reference(images))
    return graph_module


class _ThreadTracer(fx.Tracer):
    """A tracer that leaves other threads alone.

    torch.fx patches `nn.Module` for the whole process while it traces; a server may score images on another thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Nodes(fx.Interpreter):
    """Runs a graph under the tracer, and stores the node of each value and call."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self._tracer: Tracer | None = None
        self.node_of_value: dict[int, fx.Node] = {}
        self.node_of_call: dict[int, fx.Node] = {}

    @property
    def traced(self) -> Trace:
        assert self._tracer is not None
        return self._tracer.trace

    def run_traced(self, images: Tensor) -> None:
        """Runs the graph on the images and fills the trace."""
        self._tracer = Tracer(self.module, len(images))
        self._tracer.entered("")((images,), {})
        with torch.inference_mode(False), torch.no_grad(), self._tracer:
            self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        before = len(self.traced.calls)
        result = super().run_node(n)
        for call in self.traced.calls[before:]:
            self.node_of_call[call.index] = n
        if isinstance(result, Tensor):
            assert self._tracer is not None
            value = self._tracer.value_of(result)
            if value is not None:
                self.node_of_value.setdefault(value, n)
        return result


def _insert(
    graph_module: fx.GraphModule,
    nodes: _Nodes,
    original: Trace,
    discovery: Discovery,
    quantity: BlockTensor,
    directions: int,
    pool: bool,
) -> None:
    """Add a reduction for every residue, and the statistics to the output."""
    kind = discovery.branches[0].kind
    ours, theirs = sites(nodes.traced, kind), sites(original, kind)
    if [site.shape for site in ours] != [site.shape for site in theirs]:
        raise NotRewritableError("the graph's sums are not the network's")
    counterpart = {site.call: other for site, other in zip(theirs, ours, strict=True)}
    graph = graph_module.graph
    reduced: list[fx.Node] = []
    averaged: dict[BlockTensor, list[fx.Node]] = {"embeddings": [], "residues": []}
    vectors: dict[tuple[int, ...], fx.Node] = {}
    for branch in discovery.branches:
        site = counterpart.get(branch.site)
        if site is None:
            raise NotRewritableError(f"block {branch.name!r} is not among the network's sums")
        for what in averaged if pool else (quantity,):
            where, value = _value(graph, nodes, branch, site, what)
            with graph.inserting_before(where):
                tensor = value()
                if branch.batch_axis:  # as the recorder does
                    tensor = graph.call_method("movedim", (tensor, branch.batch_axis, 0))
                    tensor = graph.call_method("contiguous", (tensor,))
                if what == quantity:
                    chosen = _directions(graph_module, vectors, branch.shape, directions)
                    reduced.append(graph.call_function(reduce_residue, (tensor, chosen)))
                if pool:
                    averaged[what].append(graph.call_function(pooled, (tensor,)))
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        statistics = graph.call_function(finish, (reduced,))
    parts = tuple(map(tuple, averaged.values())) if pool else ()
    output.args = ((output.args[0], statistics, *parts),)
    graph.lint()
    graph_module.recompile()


def _directions(
    graph_module: fx.GraphModule, vectors: dict[tuple[int, ...], fx.Node], shape: tuple[int, ...], count: int
) -> fx.Node | None:
    """The node of the directions for residues of that shape; `vectors` has those of earlier shapes."""
    if not count:
        return None
    if shape not in vectors:
        name = f"directions_{len(vectors)}"
        tensor = fixed_directions(shape, count).to(example_images(graph_module, (1, 1, 1)).device)
        graph_module.register_buffer(name, tensor, persistent=False)
        with graph_module.graph.inserting_before(next(iter(graph_module.graph.nodes))):
            vectors[shape] = graph_module.graph.get_attr(name)
    return vectors[shape]


def _value(
    graph: fx.Graph, nodes: _Nodes, branch: Branch, site: Site, quantity: BlockTensor
) -> tuple[fx.Node, Callable[[], fx.Node]]:
    """The node to insert before, and a function that makes the node of the residue or the embedding."""
    end = _node(nodes, site.after, branch)
    if quantity == "embeddings":
        return end.next, lambda: end
    if branch.kind == "block_difference":
        start = _node(nodes, site.before, branch)
        if nodes.traced.overwritten_after(site.before, nodes.traced.calls[site.call].time - 1):
            raise NotRewritableError(f"block {branch.name!r} changes its input in place")
        return end.next, lambda: graph.call_function(torch.sub, (end, start))
    # Before the sum, which may overwrite the residue.
    operand = _node(nodes, site.operands[branch.side], branch)
    factor = branch.residue[0].factor
    if factor == 1.0:
        return nodes.node_of_call[site.call], lambda: operand
    return nodes.node_of_call[site.call], lambda: graph.call_function(torch.mul, (operand, factor))


def _node(nodes: _Nodes, value: int, branch: Branch) -> fx.Node:
    node = nodes.node_of_value.get(value)
    if node is None:
        raise NotRewritableError(f"block {branch.name!r} lies inside a module that the graph does not open")
    return node


def _compare(got: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for name, one, other in zip(("output", "statistics"), got[:2], expected[:2], strict=True):
        if not _close(one, other, 1.0):
            raise NotRewritableError(f"the graph's {name} is not the network's")
    names = ("embeddings", "residues")[: len(expected) - 2]
    for name, ours, theirs in zip(names, got[2:], expected[2:], strict=True):
        # Pooled vectors may be small: their precision is relative to the largest number.
        if len(ours) != len(theirs) or not all(
            _close(one, other, float(other.abs().nan_to_num().max())) for one, other in zip(ours, theirs, strict=True)
        ):
            raise NotRewritableError(f"the graph's pooled {name} are not the network's")


def _close(one: Any, other: Any, scale: float) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
        return False
    tolerance = 1e-3 if one.dtype in (torch.float32, torch.float64) else 5e-2
    return torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance * scale, equal_nan=True)
