"""Every engine computes what torch computes, for an image the same alone and in any batch."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.engines import PRECISIONS, Engine, EngineSource, build_engine
from models.engines.agreement import TOLERANCES, compare, find_smallest_batch, relative_error
from models.errors import InputError, MissingExtraError, UnknownNameError
from models.registry import ENGINES
from models.residuals import PooledPass, WithPooled

CASES = [(name, precision) for name in ENGINES.names() for precision in ENGINES.load(name).precisions]


@pytest.fixture(params=CASES, ids=lambda case: " ".join(case))
def engine(request: pytest.FixtureRequest, source: EngineSource) -> Engine:
    return build_engine(*request.param, source)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _recorded(source: EngineSource, images: Tensor) -> PooledPass:
    module = WithPooled(
        source.network, source.discovery, statistics_spec=source.statistics_spec, image_shape=source.image_shape
    )
    with torch.inference_mode():
        return module.eval()(images)


def _arrays(outputs: PooledPass) -> list[np.ndarray]:
    return [each.numpy() for each in outputs if each is not None]


@torch.inference_mode()
def test_an_engine_agrees_with_torch(engine: Engine, source: EngineSource, images: Tensor) -> None:
    got, expected = _arrays(engine.run(images)), _arrays(_recorded(source, images))
    assert len(got) == len(expected) == 4
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == np.float32
        assert relative_error(one, other) <= TOLERANCES[engine.precision]
    agreement = compare(got[:2], expected[:2])
    assert agreement.images == len(images)
    assert agreement.classes == 0 or engine.precision == "bfloat16"


@torch.inference_mode()
def test_an_image_has_the_same_bits_alone_and_in_any_batch_and_order(engine: Engine, images: Tensor) -> None:
    if engine.needs_graph:
        assert find_smallest_batch(engine, images) <= 2
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(len(images)))
    straight, shuffled = _arrays(engine.run(images)), _arrays(engine.run(images[order]))
    for one, other in zip(straight, shuffled, strict=True):
        assert np.array_equal(one[order.numpy()], other)


@torch.inference_mode()
def test_a_large_batch_is_divided(engine: Engine, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    whole, sizes, run = _arrays(engine.run(images)), [], engine._run
    monkeypatch.setattr(type(engine), "largest_batch", 8)
    monkeypatch.setattr(engine, "_run", lambda part: sizes.append(len(part)) or run(part))
    parts = _arrays(engine.run(images))
    assert sizes == [7, 7, 6]
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one, other) or not engine.needs_graph


@torch.inference_mode()
def test_an_engine_takes_images_in_any_memory_layout(engine: Engine, images: Tensor) -> None:
    straight, layout = _arrays(engine.run(images)), _arrays(engine.run(images.to(memory_format=torch.channels_last)))
    for one, other in zip(straight, layout, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_engine_follows_the_number_of_threads(engine: Engine, images: Tensor) -> None:
    before = _arrays(engine.run(images))
    torch.set_num_threads(2)
    for one, other in zip(before, _arrays(engine.run(images)), strict=True):
        assert relative_error(one, other) <= TOLERANCES[engine.precision]


@torch.inference_mode()
def test_results_do_not_change_with_later_batches(engine: Engine, images: Tensor) -> None:
    first = engine.run(images[:4])
    kept = [array.copy() for array in _arrays(first)]
    engine.run(images[4:8])
    for one, other in zip(_arrays(first), kept, strict=True):
        assert np.array_equal(one, other)


@torch.inference_mode()
def test_a_graph_without_pooled_vectors(source: EngineSource, images: Tensor) -> None:
    outputs = build_engine("torch", "float32", replace(source, pooled=False)).run(images)
    assert outputs.embeddings is outputs.residues is None


def test_a_precision_that_an_engine_lacks_is_refused(source: EngineSource) -> None:
    assert set(PRECISIONS) == {"float32", "bfloat16"}
    with pytest.raises(InputError, match="float32 only, got 'bfloat16'; use --engine openvino"):
        build_engine("onnxruntime", "bfloat16", source)


def test_an_unknown_engine_is_refused(source: EngineSource) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'openvino'"):
        build_engine("openvin", "float32", source)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_package_names_its_extra(name: str, source: EngineSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"plumbline\[{name}\]"):
        build_engine(name, "float32", source)
