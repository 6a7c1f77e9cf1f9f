"""A graph that is not the network's, or that reads or needs more than it may, is refused before a runtime reads it."""

import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from models.engines import EngineSource, check_graph, export_graph
from models.errors import InputError, MissingExtraError, NetworkError
from models.residuals import discover

from .conftest import SHAPE
from .test_choice import Branching

EXPECTED = {"image_shape": SHAPE, "classes": 4, "columns": 9, "widths": (4, 8, 16)}


def test_an_exported_graph_passes_and_has_no_path_of_this_machine(source: EngineSource) -> None:
    assert source.graph is not None
    check_graph(source.graph, **EXPECTED)
    assert str(Path(torch.__file__).parent).encode() not in source.graph
    assert b"models/" not in source.graph


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"image_shape": (3, 32, 32)}, r"images \(batch, 3, 32, 32\)"),
        ({"classes": 5}, r"'logits': 5.* got .*'logits': \(None, 4\)"),
        ({"columns": 6}, r"'statistics': 6.* got .*'statistics': \(None, 9\)"),
        ({"widths": (4, 8)}, r"'embeddings': 12.* got .*'embeddings': \(None, 28\)"),
        ({"widths": ()}, r"the outputs \{'logits': 4, 'statistics': 9\} and"),
    ],
)
def test_a_graph_of_another_network_is_refused(source: EngineSource, expected: dict[str, int], message: str) -> None:
    assert source.graph is not None
    with pytest.raises(InputError, match=message):
        check_graph(source.graph, **{**EXPECTED, **expected})


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _external_in_an_attribute(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def _foreign_domain(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Anything", ["images"], ["unused"], domain="com.example"))


def _function(model: onnx.ModelProto) -> None:
    nodes, opsets = [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Mine", ["x"], ["y"], nodes, opsets))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Relu", ["images"], ["unused"], body=body))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _huge(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [100_000, 100_000, 100])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["unused"]))


def _unknown_shape(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Reshape", ["images", "statistics"], ["unused"]))


def _no_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("NoSuchOperator", ["images"], ["unused"]))


def _integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _power_of_the_batch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shape", ["images"], ["batch"], start=0, end=1))
    for number, name in enumerate(("batch", "power_0", "power_1")):  # one value for one image, 2^48 for 64
        model.graph.node.append(helper.make_node("Mul", [name, name], [f"power_{number}"]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["power_2"], ["unused"]))


def _growing_strings(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"a long text"]))
    model.graph.node.append(helper.make_node("StringConcat", ["text", "text"], ["unused"]))


def _strings(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["unused"], to=TensorProto.STRING))


def _random(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormalLike", ["logits"], ["unused"]))


def _division_that_ends_the_process(model: onnx.ModelProto) -> None:
    for name, value in (("least", -(2**63)), ("minus_one", -1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    model.graph.node.append(helper.make_node("Div", ["least", "minus_one"], ["unused"]))


def _channels_that_do_not_fit(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("filters", TensorProto.FLOAT, [1, 7, 1, 1], [0.0] * 7))
    model.graph.node.append(helper.make_node("Conv", ["images", "filters"], ["unused"]))


def _axis_that_does_not_exist(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Concat", ["images", "images"], ["unused"], axis=2**40))


def _reads_outside_of_its_memory(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("place", TensorProto.INT64, [1, 4], [10**9] * 4))
    model.graph.node.append(helper.make_node("GatherND", ["images", "place"], ["unused"]))


def _output_without_a_shape(model: onnx.ModelProto) -> None:
    del model.graph.output[2].type.tensor_type.shape.dim[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_power_of_the_batch, "linear in the batch"),
        (_growing_strings, "image classifiers' operators"),
        (_strings, "a graph of numbers"),
        (_random, "image classifiers' operators"),
        (_division_that_ends_the_process, "of an operator Div"),
        (_channels_that_do_not_fit, "of an operator Conv"),
        (_axis_that_does_not_exist, "of an operator Concat"),
        (_reads_outside_of_its_memory, "image classifiers' operators"),
        (_output_without_a_shape, "a graph with the outputs"),
        (_external, "in one file"),
        (_external_in_an_attribute, "in one file"),
        (_foreign_domain, "standard operators"),
        (_function, "without functions"),
        (_loop, "without sub-graphs"),
        (_sparse, "dense tensors"),
        (_huge, "bytes of activations per image"),
        (_unknown_shape, "cannot be inferred"),
        (_no_operator, "image classifiers' operators"),
        (_integers, "expected a graph of images"),
        (_second_input, "expected a graph of images"),
    ],
)
def test_an_unsafe_graph_is_refused(
    source: EngineSource, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    assert source.graph is not None
    model = onnx.ModelProto.FromString(source.graph)
    change(model)
    with pytest.raises(InputError, match=message):
        check_graph(model.SerializeToString(), **EXPECTED)


@pytest.mark.parametrize("graph", [b"", b"\x00" * 100, b"not a model"])
def test_other_bytes_are_refused(graph: bytes) -> None:
    with pytest.raises(InputError):
        check_graph(graph, **EXPECTED)


def test_the_check_needs_onnx(source: EngineSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"plumbline\[onnxruntime\]"):
        check_graph(source.graph or b"", **EXPECTED)


def test_a_network_that_cannot_be_exported_states_the_reason(source: EngineSource) -> None:
    network = Branching().eval()
    with pytest.raises(NetworkError, match=r"torch\.fx cannot take the graph"):
        export_graph(
            EngineSource(
                network=network, discovery=discover(network, SHAPE), statistics_spec=source.statistics_spec,
                image_shape=SHAPE, pooled=False,
            )
        )  # fmt: skip
