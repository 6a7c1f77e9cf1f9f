"""Artifacts with an engine: the same verdicts after loading, and no engine that is not the network's."""

import shutil
import sys
from pathlib import Path

import onnx
import pytest
import torch

from detector.artifact import load_artifact
from detector.artifact.manifest import GRAPH, MANIFEST
from detector.pipeline import Pipeline
from models.engines import Engine, EngineSource, build_engine, export_graph
from models.errors import ArtifactError
from tests.conftest import SEED
from tests.detector.artifact.saved import reseal, save
from tests.detector.conftest import make_pipeline, smooth_images

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [("onnxruntime", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"), ("torch", "bfloat16")]


@pytest.fixture(scope="module")
def graph(pipeline: Pipeline) -> bytes:
    return export_graph(_source(pipeline))


def _source(pipeline: Pipeline, graph: bytes | None = None) -> EngineSource:
    return EngineSource(
        network=pipeline.network, discovery=pipeline.discovery, statistics_spec=pipeline.statistics_spec,
        image_shape=pipeline.image_shape, pooled=False, graph=graph,
    )  # fmt: skip


def _with_engine(pipeline: Pipeline, engine: Engine) -> Pipeline:
    return Pipeline(
        network=pipeline.network, discovery=pipeline.discovery, statistics_spec=pipeline.statistics_spec,
        detector=pipeline.detector, calibration=pipeline.calibration, classes=pipeline.classes, band=pipeline.band,
        image_shape=pipeline.image_shape, engine=engine,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, pipeline: Pipeline, graph: bytes) -> Path:
    """An artifact with ONNX Runtime, to spoil."""
    save(
        tmp_path / "artifact", _with_engine(pipeline, build_engine("onnxruntime", "float32", _source(pipeline, graph)))
    )
    return tmp_path / "artifact"


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_an_engine_scores_the_same_after_loading_alone_and_in_any_batch(
    name: str, precision: str, pipeline: Pipeline, graph: bytes, tmp_path: Path
) -> None:
    engine = build_engine(name, precision, _source(pipeline, graph))
    served = _with_engine(pipeline, engine)
    save(tmp_path / "artifact", served)
    assert (tmp_path / "artifact" / GRAPH).is_file() == engine.needs_graph
    loaded = load_artifact(tmp_path / "artifact")
    assert loaded.manifest["engine"] == engine.to_json()
    images = smooth_images(7, torch.Generator().manual_seed(SEED))
    together = loaded.pipeline.score(images)
    assert [verdict.to_json() for verdict in together] == [verdict.to_json() for verdict in served.score(images)]
    assert together == [loaded.pipeline.score(image[None])[0] for image in images]
    if precision == "float32":
        torchs = pipeline.score(images)
        assert [each.label for each in together] == [each.label for each in torchs]
        assert [each.score for each in together] == pytest.approx([each.score for each in torchs], abs=0.2)


def test_torch_in_float32_is_not_recorded(pipeline: Pipeline, tmp_path: Path) -> None:
    save(tmp_path / "artifact", pipeline)
    assert "engine" not in load_artifact(tmp_path / "artifact").manifest
    assert not (tmp_path / "artifact" / GRAPH).exists()


def test_the_smallest_batch_of_torch_in_float32_is_recorded(tmp_path: Path) -> None:
    pipeline = make_pipeline()
    assert pipeline.engine is not None
    pipeline.engine.smallest_batch = 3
    save(tmp_path / "artifact", pipeline)
    loaded = load_artifact(tmp_path / "artifact").pipeline.engine
    assert loaded is not None
    assert (loaded.name, loaded.smallest_batch) == ("torch", 3)


def test_the_graph_of_other_weights_is_refused(folder: Path, graph: bytes) -> None:
    model = onnx.ModelProto.FromString(graph)
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = torch.frombuffer(bytearray(weights.raw_data), dtype=torch.float32)
    weights.raw_data = values.roll(1).numpy().tobytes()
    (folder / GRAPH).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(ArtifactError, match="differ by"):
        load_artifact(folder)


def test_weights_and_recorded_output_of_another_network_than_the_graph_are_refused(
    folder: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    other = make_pipeline(seed=SEED + 7)
    save(tmp_path / "other", other)
    shutil.copy(tmp_path / "other" / "network.safetensors", folder)
    reseal(folder)
    with pytest.raises(ArtifactError, match="the graph is another network's"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (None, "expected an engine"),
        ({"name": "onnxruntime"}, "expected an engine"),
        ({"name": "onnxruntime", "precision": "float16", "smallest_batch": 1}, "a precision"),
        ({"name": "onnxruntime", "precision": "bfloat16", "smallest_batch": 1}, "float32 only"),
        ({"name": "onnxruntime", "precision": "float32", "smallest_batch": 10**9}, "smallest batch"),
        ({"name": "onnxruntime", "precision": "float32", "smallest_batch": True}, "smallest batch"),
        ({"name": "os.system", "precision": "float32", "smallest_batch": 1}, "known engine"),
        ({"name": "torch", "precision": "bfloat16", "smallest_batch": 1}, "graph exactly"),
    ],
)
def test_a_forged_engine_is_refused(folder: Path, engine: dict[str, object] | None, message: str) -> None:
    reseal(folder, lambda manifest: manifest.update(engine=engine))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(folder)


def test_an_unsafe_graph_is_refused(folder: Path, graph: bytes) -> None:
    model = onnx.ModelProto.FromString(graph)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="network.safetensors")
    (folder / GRAPH).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(ArtifactError, match="in one file"):
        load_artifact(folder)


def test_a_graph_that_the_runtime_cannot_run_is_refused(folder: Path, graph: bytes) -> None:
    model = onnx.ModelProto.FromString(graph)
    model.graph.initializer.append(onnx.helper.make_tensor("place", onnx.TensorProto.INT64, [1], [10**9]))
    model.graph.node.append(onnx.helper.make_node("Gather", ["logits", "place"], ["unused"]))
    (folder / GRAPH).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(ArtifactError, match="ONNX Runtime failed"):
        load_artifact(folder)


def test_other_pooled_vectors_than_those_of_the_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(GOLDEN / "protocol-2" / "fusion-onnxruntime", folder)
    load_artifact(folder)
    model = onnx.ModelProto.FromString((folder / GRAPH).read_bytes())
    [node] = [node for node in model.graph.node if "residue_0" in node.output]
    node.output[0] = "right"
    model.graph.node.append(onnx.helper.make_node("Add", ["right", "right"], ["residue_0"]))
    (folder / GRAPH).write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(ArtifactError, match="pooled residues of the engine's graph"):
        load_artifact(folder)


def test_a_graph_belongs_to_the_manifest(folder: Path, pipeline: Pipeline, tmp_path: Path, graph: bytes) -> None:
    whole = (folder / GRAPH).read_bytes()
    (folder / GRAPH).write_bytes(whole[:-1] + b"\0")
    with pytest.raises(ArtifactError, match="SHA-256"):
        load_artifact(folder)
    (folder / GRAPH).unlink()
    with pytest.raises(ArtifactError, match=r"missing \['engine.onnx'\]"):
        load_artifact(folder)
    save(tmp_path / "plain", pipeline)
    (tmp_path / "plain" / GRAPH).write_bytes(graph)
    with pytest.raises(ArtifactError, match=r"not an artifact's own \['engine.onnx'\]"):
        load_artifact(tmp_path / "plain")


def test_an_artifact_with_an_engine_is_replaced_by_one_without(folder: Path, pipeline: Pipeline) -> None:
    save(folder, pipeline)
    assert {path.name for path in folder.iterdir()}.isdisjoint({GRAPH})
    assert (folder / MANIFEST).is_file()


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError, match=r"pip install 'plumbline\[onnxruntime\]'"):
        load_artifact(folder)
