"""Weight files as people have them: weights that fit exactly are taken; for others, one sentence names the cause."""

import argparse
import io
import json
import os
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_model
from torch import Tensor, nn

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import CheckpointError, DatasetError, InputError, NetworkError
from models.loading import load_network, load_weights


class Net(nn.Module):
    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
        self.head = nn.Linear(5, num_classes)


class Wrapper(nn.Module):
    """A network with an attribute `module` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Net()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one


@pytest.fixture
def network(seed: int) -> Net:
    torch.manual_seed(seed)
    return Net()


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _others(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _assert_taken(state: dict[str, Tensor], network: nn.Module) -> None:
    taken = network.state_dict()
    for name in state:
        torch.testing.assert_close(taken[name], state[name], rtol=0, atol=0)


CHECKPOINTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "model_state_dict": lambda s: {"model_state_dict": OrderedDict(s), "loss": 0.1},
    "net": lambda s: {"net": s, "acc": 93.1},
    "params": lambda s: {"params": s, "params_list": [s]},
    "nested": lambda s: {"state": {"model": {"weights": s}}},
    "data parallel": lambda s: {"state_dict": _under("module.", s)},
    "compiled, data parallel": lambda s: {"model": _under("module._orig_mod.", s)},
    "lightning": lambda s: {
        "state_dict": _under("model.", s) | {"criterion.weight": torch.ones(4)},
        "pytorch-lightning_version": "2.5", "callbacks": {}, "hyper_parameters": {"lr": 0.1},
    },
    "averaged": lambda s: _under("module.", s) | {"n_averaged": torch.tensor(7)},
    "profiled": lambda s: s | {"total_ops": torch.zeros(1), "stem.total_params": torch.zeros(1)},
    "without counters": lambda s: {name: t for name, t in s.items() if "num_batches" not in name},
    "half precision": lambda s: {name: t.half() if t.is_floating_point() else t for name, t in s.items()},
    "half precision of counters too": lambda s: {name: t.half() for name, t in s.items()},
    "a namespace and NumPy numbers": lambda s: {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(0.9), "model": s,
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_every_layout_of_a_checkpoint_is_read(layout: str, network: Net, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    state = {name: tensor.half().float() if tensor.is_floating_point() else tensor
             for name, tensor in network.state_dict().items()}  # fmt: skip
    path.write_bytes(_saved(CHECKPOINTS[layout](state)))
    empty = Net()
    load_weights(empty, path, "it")
    _assert_taken({n: t for n, t in state.items() if "num_batches" not in n}, empty)
    assert empty.head.weight.dtype == torch.float32


FORMATS: dict[str, Callable[[dict[str, Tensor]], bytes]] = {
    "safetensors": save,
    "zip": lambda s: _saved({"model": s, "args": argparse.Namespace()}),
    "legacy": lambda s: _saved({"model": s, "args": argparse.Namespace()}, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", ["w.pt", "w.ckpt", "pytorch_model.bin", "weights"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_recognised_by_content(name: str, kind: str, network: Net, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMATS[kind](network.state_dict()))
    empty = Net()
    assert load_weights(empty, tmp_path / name, "it") == ()
    _assert_taken(network.state_dict(), empty)


def test_a_prefix_is_stripped_only_if_that_makes_the_keys_fit(network: Net, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    wrapped = Wrapper()
    wrapped.module.load_state_dict(network.state_dict())
    states = (wrapped.state_dict(), _under("module.", wrapped.state_dict()), network.state_dict())
    for state in states:  # as it is, of a parallel copy, of the network inside
        path.write_bytes(_saved(state))
        empty = Wrapper()
        load_weights(empty, path, "it")
        _assert_taken(wrapped.state_dict(), empty)


def test_averaged_weights_come_first_and_choices_are_said(network: Net, tmp_path: Path) -> None:
    path, state = tmp_path / "w.pt", network.state_dict()
    empty = Net()
    path.write_bytes(_saved({"model": _others(state), "model_ema": state}))
    (note,) = load_weights(empty, path, "it")
    assert "took the weights in model_ema; those in model fit too" in note
    _assert_taken(state, empty)
    path.write_bytes(_saved({"schema": state, "best": _others(state)}))  # no name of averaged weights
    (note,) = load_weights(empty, path, "it")
    assert "took the weights in schema" in note
    path.write_bytes(_saved({"model": state, "copy": state}))
    assert load_weights(empty, path, "it") == ()
    path.write_bytes(_saved(_under("net.", state) | {"loss.weight": torch.ones(3)}))
    (note,) = load_weights(empty, path, "it")
    assert "took the weights in net and left 1 other tensors out" in note


def test_tied_weights_are_needed_once(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    tied = Tied()
    save_model(tied, str(tmp_path / "w.safetensors"))
    empty = Tied()
    load_weights(empty, tmp_path / "w.safetensors", "it")
    _assert_taken(tied.state_dict(), empty)


def test_weights_that_do_not_fit_are_refused_with_the_differences(network: Net, tmp_path: Path) -> None:
    path, state = tmp_path / "w.pt", network.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    renamed = {name.replace("head", "fc"): tensor for name, tensor in _under("module.", state).items()}
    for content, message in (
        (
            renamed,
            r"it: the weights in w\.pt do not fit.*2 missing \(head\.\w+, head\.\w+\), 2 unexpected \(fc\.\w+, fc",
        ),
        (
            Net(1000).state_dict(),
            r"head\.weight float32 \(1000, 5\) instead of float32 \(4, 5\).*for 1000 classes.* 4;",
        ),
        ({**state, "head.weight": torch.zeros(4, 5, dtype=torch.int8)}, r"of another shape \(head\.weight int8"),
        ({**state, "extra": torch.zeros(3)}, "1 unexpected"),
        ({"other": torch.zeros(3)}, "missing"),
    ):
        path.write_bytes(_saved(content))
        with pytest.raises(NetworkError, match=message):
            load_weights(network, path, "it")
        _assert_taken(kept, network)
    path.write_bytes(_saved({**state, "head.bias": torch.full((4,), torch.nan)}))
    with pytest.raises(CheckpointError, match=r"NaN or infinity in head\.bias"):
        load_weights(network, path, "it")


@pytest.mark.parametrize("source", ["torchvision", "file"])
def test_a_weight_file_decides_on_the_number_of_classes(source: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torchvision.models import shufflenet_v2_x0_5 as make\n"
        "def build(num_classes):\n    return make(num_classes=num_classes)\n"
    )
    reference = {"torchvision": "torchvision:shufflenet_v2_x0_5", "file": f"{tmp_path / 'net.py'}:build"}[source]
    original = load_network(reference, num_classes=7, image_shape=(3, 32, 32))
    (tmp_path / "w.ckpt").write_bytes(_saved({"state_dict": original.network.network.state_dict()}))
    loaded = load_network(f"{reference}:{tmp_path / 'w.ckpt'}", num_classes=3, image_shape=(3, 32, 32))
    assert (loaded.spec.num_classes, loaded.spec.arguments) == (7, {"num_classes": 7})


def test_no_code_in_a_file_runs(tmp_path: Path, network: Net) -> None:
    class Evil:
        def __init__(self, function: Callable[..., object], *words: object) -> None:
            self.call = (function, words)

        def __reduce__(self) -> tuple[object, ...]:
            return self.call

    mark = tmp_path / "ran"
    for evil in (Evil(Path.touch, mark), Evil(os.system, f"touch {mark}"), Evil(exec, f"open({str(mark)!r}, 'w')")):
        (tmp_path / "evil.pt").write_bytes(_saved({"state_dict": evil}))
        with pytest.raises(CheckpointError):
            load_weights(network, tmp_path / "evil.pt", "it")
        assert not mark.exists()


def _archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return buffer.getvalue()


HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
UNUSABLE = {
    "empty": (b"", "is empty; download or copy it again"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html><html>Sign in</html>", "web page, which a download returned"),
    "cut safetensors": (struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 40, "incomplete, download or copy it again"),
    "cut zip": (_saved({"w": torch.zeros(999)})[:2000], "incomplete: it has 2000 bytes"),
    "cut legacy": (_saved({"w": torch.zeros(99)}, _use_new_zipfile_serialization=False)[:-50], "download or copy it"),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 30, "gzip; unpack it"),
    "tar": (_tar(), "tar archive; unpack it"),
    "npz": (_archive(x_npy=b"0"), "zip archive without weights"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"\0" * 30, "HDF5"),
    "text": (b"hello", "neither safetensors nor written by torch.save"),
    "script": (_archive(data_pkl=b"", constants_pkl=b""), r"TorchScript.*torch\.jit\.load"),
    "tensor": (_saved(torch.zeros(3)), "no state dictionary"),
    "module": (_saved(Net()), r"pickled network.*network\.state_dict\(\)"),
    "module beside": (_saved({"model": Net(), "epoch": 3}), r"pickled network.*network\.state_dict\(\)"),
    "pickle": (b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.", r"if you trust the file.*torch\.save\(network\.state_dict"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_is_refused_with_cause_and_remedy(kind: str, network: Net, tmp_path: Path) -> None:
    content, message = UNUSABLE[kind]
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_weights(network, tmp_path / "w.pt", "it")
    assert "weights_only" not in str(error.value)
    assert "allowlist" not in str(error.value)


@pytest.mark.parametrize("kind", ["empty", "pointer", "page"])
def test_other_files_without_their_content_are_named(kind: str, network: Net, tmp_path: Path) -> None:
    content, message = UNUSABLE[kind]
    for name in ("network.json", "network.safetensors", "images.npz", "net.py"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_network(str(tmp_path))
    with pytest.raises(DatasetError, match=message):
        load_dataset(f"npz:{tmp_path / 'images.npz'}", DatasetRequest(root=tmp_path))
    with pytest.raises(InputError, match=message):
        load_network(f"{tmp_path / 'net.py'}:build")


def test_a_missing_file_is_refused(network: Net, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="existing weight file"):
        load_weights(network, tmp_path / "none.pt", "it")
