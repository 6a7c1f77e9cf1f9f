"""Checks of an ONNX model from an artifact, before a runtime reads it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.errors import InputError
from models.extras import import_optional

__all__ = ["MAX_BYTES", "OUTPUTS", "check_graph"]

OUTPUTS = ("logits", "statistics", "embeddings", "residues")  # the latter two of graphs with pooled vectors
MAX_BYTES = 2**31 - 1  # of a protocol buffer
_MAX_ACTIVATIONS = 8 * 2**30  # bytes of all values for one image
_MAX_PARAMETERS = 4096  # bytes of a tensor that may state a shape
_FLOAT = 1  # onnx.TensorProto.FLOAT, as are the following types
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
_NUMBERS = _INTEGERS | {_FLOAT, 9, 10, 11, 16}  # and bool, float16, float64 and bfloat16
_BATCHES = (1, 33, 65)  # sizes whose shapes are compared; equally far apart

# Operators of image classifiers. None has random results, sub-graphs, strings or sequences. Operators are left out if a
# runtime reads or writes outside of its memory when their indices or shapes are invalid.
_NAMES = """
Abs Add And ArgMax ArgMin Attention AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant
ConstantOfShape Conv Cos CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather Gelu Gemm
GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity IsInf IsNaN
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mish Mul Neg
Not Or PRelu Pad Pow RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterND Selu Shape Sigmoid Sign Sin Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Tile Transpose Trilu Unsqueeze Where
"""
_OPERATORS = frozenset(_NAMES.split())


def check_graph(
    graph: bytes, *, image_shape: tuple[int, int, int], classes: int, columns: int, widths: Sequence[int]
) -> None:
    """Check that an untrusted model is one file of bounded memory with the expected inputs and outputs.

    Refused are references to other files, operators that image classifiers do not have, functions, and sub-graphs.
    Shapes are inferred for three sizes of the batch, so that a model cannot need much more memory than a network's
    activations, and no more for an image in a large batch.

    Args:
        graph: the bytes of the file.
        image_shape: (3, H, W).
        classes: number of logits.
        columns: number of statistics.
        widths: lengths of the pooled vectors of all blocks; empty for a graph without them.

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
    expected = {"logits": classes, "statistics": columns}
    separate = [f"{quantity}_{block}" for quantity in ("embedding", "residue") for block in range(len(widths))]
    if [each.name for each in model.graph.output][2:] == separate:  # as earlier versions exported them
        expected |= dict(zip(separate, (*widths, *widths), strict=True))
    elif widths:
        expected |= dict.fromkeys(OUTPUTS[2:], sum(widths))
    outputs = {each.name: _shape(each) for each in model.graph.output}
    if list(outputs.items()) != [(name, (None, width)) for name, width in expected.items()]:
        raise InputError(f"expected a graph with the outputs {expected!r:.200} and their widths, got {outputs!r:.200}")
    _require_bounded(onnx, model)


def _require_self_contained(onnx: Any, model: Any) -> None:
    domains = {each.domain for each in model.opset_import} | {node.domain for node in model.graph.node}
    if domains - {"", "ai.onnx"} or model.functions or model.training_info:
        raise InputError(f"expected a graph of standard operators without functions, got the domains {sorted(domains)}")
    if unknown := {node.op_type for node in model.graph.node} - _OPERATORS:
        raise InputError(f"expected a graph of image classifiers' operators, got {sorted(unknown)!r:.200}")
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
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # which the file states
    for tensor in bare.graph.initializer:
        if tensor.data_type == _FLOAT and len(tensor.raw_data) > _MAX_PARAMETERS:
            tensor.ClearField("raw_data")  # shapes do not depend on weights
    one, several, many = (_inferred_shapes(onnx, bare, batch) for batch in _BATCHES)
    total = 0
    for name, shape in one.items():
        for low, middle, high in zip(shape, several[name], many[name], strict=True):
            # Differences below 2 come from rounding, for example in pooling.
            if min(low, high) < 0 or abs(low + high - 2 * middle) > 2:
                raise InputError(f"expected sizes that are linear in the batch, got {low}, {middle}, {high}")
        total += 8 * max(math.prod(shape), math.prod(many[name]) // _BATCHES[-1])
    if total > _MAX_ACTIVATIONS:
        raise InputError(
            f"expected a graph of at most {_MAX_ACTIVATIONS:,} bytes of activations per image, got {total:,}"
        )


def _inferred_shapes(onnx: Any, model: Any, batch: int) -> dict[str, list[int]]:
    """The shapes of all results for a batch of this size, by name."""
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type != _FLOAT or not kind.shape.dim:
            raise InputError(f"expected float32 tensors as input and outputs, got another value {value.name!r:.100}")
        kind.shape.dim[0].dim_value = batch
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as exc:
        raise InputError(f"the shapes of the engine's graph cannot be inferred: {str(exc)[:200]}") from exc
    known = {each.name: each.type.tensor_type for each in (*inferred.graph.value_info, *inferred.graph.output)}
    constants = {each.name: each for each in inferred.graph.initializer}
    shapes = {each.name: list(each.dims) for each in inferred.graph.initializer}
    shapes |= {"images": [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]}
    for node in inferred.graph.node:
        for name in filter(None, node.output):
            kind = known.get(name)
            if kind is None or not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
                raise InputError(f"the shape of {name!r:.100} in the engine's graph cannot be inferred")
            if kind.elem_type not in _NUMBERS:
                raise InputError(f"expected a graph of numbers, got another type of {name!r:.100}")
            shapes[name] = [each.dim_value for each in kind.shape.dim]
        integers = known[node.output[0]].elem_type in _INTEGERS
        try:
            fits = _fits(node, shapes)
            if node.op_type == "Div" and integers:  # some quotients of integers end the process
                fits = bool((onnx.numpy_helper.to_array(constants[node.input[1]]) > 0).all())
        except (LookupError, ValueError):  # too few inputs, or none of a known shape
            fits = False
        if not fits:
            raise InputError(f"expected arguments that fit, got others of an operator {node.op_type}")
    return {name: shape for name, shape in shapes.items() if name not in constants}


def _fits(node: Any, shapes: Mapping[str, Sequence[int]]) -> bool:
    """False for arguments that the inference of shapes accepts, and at which a runtime ends the process."""
    number = {each.name: each.i for each in node.attribute}
    if node.op_type == "Concat":
        rank = len(shapes[node.output[0]])
        return bool(-rank <= number.get("axis", 0) < rank)
    if node.op_type == "Conv":
        values, filters = (shapes[name] for name in node.input[:2])
        groups = number.get("group", 1)
        return bool(groups > 0 and filters[0] % groups == 0 and filters[1] * groups == values[1])
    return True
