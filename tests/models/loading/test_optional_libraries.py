"""Networks of timm and transformers: normalisation, sizes and class names are those of their configuration."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from models.errors import InputError, MissingExtraError, NetworkError, UnknownNameError
from models.loading import NetworkSpec, build_network, load_network, preset_size
from models.residuals import discover

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.1]}
NAMES = {0: "ant", 1: "bee", 2: "cat"}


def _vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        id2label=NAMES, label2id={name: index for index, name in NAMES.items()},
    ))  # fmt: skip


def _convnext() -> nn.Module:
    return ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=4)
    )


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    return _save(_vit(), tmp_path / "vit", {"size": {"height": 16, "width": 16}, **HALF})


def _save(network: Any, folder: Path, prepared: dict[str, Any] | None) -> Path:
    network.save_pretrained(folder)
    if prepared is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _images(shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed))


def _rebuilt(spec: NetworkSpec, network: nn.Module) -> nn.Module:
    """The network from its specification as JSON and its weights, as an artifact has them."""
    again = build_network(NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))))
    again.load_state_dict(network.state_dict())
    return again


def test_a_folder_of_transformers_is_loaded_with_its_configuration(folder: Path, seed: int) -> None:
    loaded = load_network(f"hf:{folder}")
    assert (loaded.classes, loaded.spec.num_classes, loaded.spec.image_shape) == (("ant", "bee", "cat"), 3, (3, 16, 16))
    assert preset_size(f"hf:{folder}") == (16, 16)
    images = _images((3, 16, 16), seed)
    mean, std = (torch.tensor(HALF[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    direct = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = direct(pixel_values=(images - mean) / std).logits
        torch.testing.assert_close(loaded.network(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(_rebuilt(loaded.spec, loaded.network)(images), loaded.network(images))
    assert len(discover(loaded.network, loaded.spec.image_shape).branches) == 4


def test_sizes_and_normalisation_in_other_forms(tmp_path: Path) -> None:
    network = _convnext()
    for index, (prepared, size, mean) in enumerate((
        ({"size": {"shortest_edge": 32}, "crop_pct": 0.875, **HALF}, (36, 32), 0.5),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, **HALF}, (40, 32), 0.5),
        ({"size": 32, "do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True, **HALF}, (32, 32), 0.75),
        ({"size": 32, "do_normalize": False}, (32, 32), 0.0),
    )):  # fmt: skip
        reference = f"hf:{_save(network, tmp_path / str(index), prepared)}"
        loaded = load_network(reference)
        assert preset_size(reference) == size
        assert loaded.spec.mean[0] == pytest.approx(mean)
        assert loaded.classes is None  # LABEL_0, …
    _save(network, tmp_path / "bare", None)
    with pytest.raises(InputError, match=r"preprocessor_config\.json.*--mean and --std"):
        load_network(f"hf:{tmp_path / 'bare'}")
    shape = (3, 32, 32)
    assert (
        load_network(f"hf:{tmp_path / 'bare'}", mean=(0.5,) * 3, std=(0.5,) * 3, image_shape=shape).spec.std[0] == 0.5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "image classifier"),
        ({"model_type": "of_nobody"}, "of_nobody"),
        ({"model_type": None}, "model_type"),
        ({"id2label": {"0": "ant"}}, "id2label"),
        ({"hidden_size": 10**9}, "hidden_size of at most"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers of at most"),
        ({"hidden_size": 24}, "save_pretrained|lack"),
        ({"backbone": "resnet50"}, "backbone"),
        ({"more": "x" * 2000}, "short text"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_used_are_refused(folder: Path, changes: Any, message: str) -> None:
    _edit(folder / "config.json", **changes)
    with pytest.raises((InputError, NetworkError), match=message):
        load_network(f"hf:{folder}")


def test_code_of_others_never_runs(folder: Path) -> None:
    (folder / "code.py").write_text("raise SystemExit('ran')\n")
    _edit(folder / "config.json", auto_map={"AutoModelForImageClassification": "code.Net", "AutoConfig": "code.Net"})
    assert "auto_map" not in load_network(f"hf:{folder}").spec.configuration


def test_folders_without_weights_or_with_another_head_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(NetworkError, match=r"lack 2 tensors.*classifier\.bias.*train it"):
        load_network(f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(NetworkError, match="save_pretrained"):
        load_network(f"hf:{folder}")
    _edit(folder / "preprocessor_config.json", do_flip_channel_order=True)
    with pytest.raises(InputError, match="BGR"):
        load_network(f"hf:{folder}")
    with pytest.raises(InputError, match=r"config\.json"):
        load_network(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(InputError, match=r"give timm:resnet18:.*model\.safetensors"):
        load_network(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="OWNER/NAME"):
        load_network("hf:none")


def test_a_configuration_in_an_artifact_is_checked(folder: Path) -> None:
    good = load_network(f"hf:{folder}").spec.to_json()
    configuration = good["configuration"]
    for change in (
        {"configuration": {}}, {"configuration": None}, {"name": "swin"}, {"source": "timm"},
        {"configuration": {**configuration, "auto_map": {"AutoConfig": "code.Net"}}},
        {"configuration": {**configuration, "hidden_size": 10**7}},
        {"configuration": {**configuration, "hidden_act": ["gelu"] * 20_000}},
    ):  # fmt: skip
        with pytest.raises(InputError):
            NetworkSpec.from_json({**good, **change})
    large = {**configuration, "hidden_size": 65_536, "intermediate_size": 10**6, "num_hidden_layers": 50}
    with pytest.raises(InputError, match=r"at most \d+ weights"):
        build_network(NetworkSpec.from_json({**good, "configuration": large}))


def test_a_network_of_timm_has_its_size_normalisation_and_weight_file(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    loaded = load_network("timm:test_vit", num_classes=5)
    assert not loaded.trained
    assert (loaded.spec.image_shape, loaded.spec.mean, loaded.spec.num_classes) == ((3, 160, 160), (0.5,) * 3, 5)
    assert preset_size("timm:test_vit")[1] == 160
    images = _images((3, 160, 160), seed)
    torch.testing.assert_close(_rebuilt(loaded.spec, loaded.network)(images), loaded.network(images))
    torch.save({"state_dict": loaded.network.network.state_dict()}, tmp_path / "w.ckpt")
    again = load_network(f"timm:test_vit:{tmp_path / 'w.ckpt'}")
    assert (again.trained, again.spec.arguments) == (True, {"num_classes": 5})
    torch.testing.assert_close(again.network(images), loaded.network(images))
    assert discover(loaded.network, (3, 160, 160)).branches


def test_weights_of_timm_are_loaded_by_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced by fresh weights; everything behind it is timm's own."""
    import timm
    from timm.models import _builder

    state = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))
    loaded = load_network("timm:test_vit.r160_in1k:pretrained")
    assert loaded.trained
    assert loaded.classes is not None
    assert (len(loaded.classes), loaded.spec.name) == (1000, "test_vit")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", fails)
    with pytest.raises(NetworkError, match=r"no network.*timm:test_vit:FILE"):
        load_network("timm:test_vit:pretrained")


def test_unknown_names_and_missing_packages_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean.*resnet18"):
        load_network("timm:resnet18x")
    spec = load_network(f"hf:{folder}").spec
    for package in ("timm", "transformers"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    for reference in ("timm:resnet18", f"hf:{folder}"):
        with pytest.raises(MissingExtraError, match=r"plumbline\[networks\]"):
            load_network(reference)
    for each in (spec, replace(spec, source="timm", name="test_vit", configuration={})):
        with pytest.raises(MissingExtraError, match=r"plumbline\[networks\]"):
            build_network(each)
