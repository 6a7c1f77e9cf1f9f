"""Checks of an ONNX model from an artifact, before a runtime reads it."""

import math
from collections.abc import Iterator
from typing import Any

from models.errors import InputError
from models.extras import import_optional

__all__ = ["MAX_BYTES", "check_graph", "output_names"]

MAX_BYTES = 2**31 - 1  # of a protocol buffer
_MAX_ACTIVATIONS = 8 * 2**30  # bytes of all values for one image
_FLOAT = 1  # onnx.TensorProto.FLOAT


def output_names(blocks: int) -> list[str]:
    """Names of a graph's outputs, in order.

    Args:
        blocks: number of blocks with pooled vectors; 0 for none.
    """
    pooled = [f"{quantity}_{number}" for quantity in ("embedding", "residue") for number in range(blocks)]
    return ["logits", "statistics", *pooled]


def check_graph(graph: bytes, *, image_shape: tuple[int, int, int], classes: int, columns: int, blocks: int) -> None:
    """Check that an untrusted model is one file of bounded memory with the expected inputs and outputs.

    Refused are references to other files, operators beyond the ONNX standard, functions, and sub-graphs. Shapes are
    inferred for one image, so that a model cannot need much more memory than a network's activations.

    Args:
        graph: the bytes of the file.
        image_shape: (3, H, W).
        classes: number of logits.
        columns: number of statistics.
        blocks: number of blocks with pooled vectors; 0 for none.

    Raises:
        InputError: any of these.
        MissingExtraError: the package onnx is not installed.
    """
    onnx = import_optional("onnx")
    try:
        model = onnx.ModelProto.FromString(graph)
    except Exception as exc:  # protobuf has errors of its own
        raise InputError(f"the engine's graph is not an ONNX model: {exc}") from exc
    _require_self_contained(onnx, model)
    inputs = [(each.name, _shape(each)) for each in model.graph.input]
    if [(name, shape[1:]) for name, shape in inputs] != [("images", image_shape)] or inputs[0][1][0] is not None:
        raise InputError(f"expected a graph of images (batch, {', '.join(map(str, image_shape))}), got {inputs!r:.200}")
    if [each.name for each in model.graph.output] != output_names(blocks):
        raise InputError(
            f"expected a graph with the outputs {output_names(blocks)!r:.200}, got "
            f"{[each.name for each in model.graph.output]!r:.200}"
        )
    for index, (values, width) in enumerate(zip(model.graph.output, (classes, columns), strict=False)):
        if _shape(values) != (None, width):
            raise InputError(f"expected output {index} of shape (batch, {width}), got {_shape(values)}")
    _require_bounded(onnx, model)


def _require_self_contained(onnx: Any, model: Any) -> None:
    domains = {each.domain for each in model.opset_import} | {node.domain for node in model.graph.node}
    if domains - {"", "ai.onnx"} or model.functions or model.training_info:
        raise InputError(f"expected a graph of standard operators without functions, got the domains {sorted(domains)}")
    if model.graph.sparse_initializer or model.graph.quantization_annotation:
        raise InputError("expected a graph of dense tensors, got sparse or quantised ones")
    for tensor in _tensors(onnx, model):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise InputError(f"expected a graph in one file, got the tensor {tensor.name!r:.100} in another")


def _tensors(onnx: Any, model: Any) -> Iterator[Any]:
    """All tensors of the model; raises InputError at a sub-graph."""
    yield from model.graph.initializer
    kinds = onnx.AttributeProto
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            nested = attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor")
            simple = (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.TENSOR, kinds.FLOATS, kinds.INTS, kinds.STRINGS)
            if nested or attribute.sparse_tensors or attribute.type not in simple:
                raise InputError(f"expected a graph without sub-graphs, got one in a node {node.op_type!r:.100}")


def _shape(value: Any) -> tuple[int | None, ...]:
    """The shape of a float32 value, with None for the batch; empty for anything else."""
    kind = value.type.tensor_type
    if kind.elem_type != _FLOAT:
        return ()
    return tuple(each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim)


def _require_bounded(onnx: Any, model: Any) -> None:
    single = onnx.ModelProto()
    single.CopyFrom(model)
    del single.graph.value_info[:]  # which the file states
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        inferred = onnx.shape_inference.infer_shapes(single, check_type=True, strict_mode=True, data_prop=True)
    except Exception as exc:
        raise InputError(f"the shapes of the engine's graph cannot be inferred: {str(exc)[:200]}") from exc
    known = {each.name: each.type.tensor_type.shape for each in (*inferred.graph.value_info, *inferred.graph.output)}
    total = 0
    for node in inferred.graph.node:
        for name in filter(None, node.output):
            if name not in known or not all(each.HasField("dim_value") for each in known[name].dim):
                raise InputError(f"the shape of {name!r:.100} in the engine's graph cannot be inferred")
            total += 8 * math.prod(each.dim_value for each in known[name].dim)
    if total > _MAX_ACTIVATIONS:
        raise InputError(
            f"expected a graph of at most {_MAX_ACTIVATIONS:,} bytes of activations per image, got {total:,}"
        )
