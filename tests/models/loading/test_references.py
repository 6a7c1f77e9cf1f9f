import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.errors import CheckpointError, InputError, NetworkError, UnknownNameError
from models.loading import (
    NetworkSpec,
    build_network,
    load_checkpoint,
    load_network,
    preset_size,
    save_checkpoint,
)
from models.registry import NETWORKS

USER_FILE = '''
"""A network somebody brought."""
from torch import nn
from layers import width

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x).relu()
        return self.head(x.mean((2, 3)))

def build(num_classes=4):
    return Net(num_classes)

def scalar():
    return 3

def broken():
    raise KeyError("no luck")

def script():
    import torch, warnings
    warnings.simplefilter("ignore")
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
'''


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "layers.py").write_text("width = 5\n")
    path = tmp_path / "network.py"
    path.write_text(USER_FILE)
    return path


SHAPE = (3, 16, 16)


def _logits(network: nn.Module, seed: int) -> torch.Tensor:
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        logits: torch.Tensor = network(images)
    return logits


def test_a_users_function_keeps_a_default_that_includes_the_classes_of_the_data(user_file: Path) -> None:
    reference = f"{user_file}:build"  # 4 classes by default
    for given, exact, expected in ((3, False, 4), (3, True, 3), (6, False, 6)):
        loaded = load_network(reference, num_classes=given, exact_classes=exact, image_shape=SHAPE)
        assert loaded.spec.num_classes == expected


def test_a_spec_rebuilds_the_network_of_a_file_only_from_that_file(user_file: Path) -> None:
    loaded = load_network(f"{user_file}:build", image_shape=SHAPE, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    spec = NetworkSpec.from_json(loaded.spec.to_json())
    assert spec == loaded.spec
    again = build_network(spec, network_file=f"{user_file}:build")
    again.load_state_dict(loaded.network.state_dict())
    torch.testing.assert_close(_logits(again, 0), _logits(loaded.network, 0), rtol=0, atol=0)
    with pytest.raises(InputError, match="--network"):
        build_network(spec)
    user_file.write_text(USER_FILE + "\n# changed\n")
    with pytest.raises(InputError, match="SHA-256"):
        build_network(spec, network_file=str(user_file))


def test_a_file_that_was_not_imported_before_is_refused(user_file: Path, tmp_path: Path) -> None:
    user_file.write_text("import colorsys\n" + USER_FILE)
    spec = load_network(f"{user_file}:build", image_shape=SHAPE).spec
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("network.py", "layers.py"):
        (copied / name).write_bytes((tmp_path / name).read_bytes())
    build_network(spec, network_file=copied / "network.py")
    shadowed = tmp_path / "shadowed"
    copied.rename(shadowed)
    (shadowed / "colorsys.py").write_text("")
    with pytest.raises(InputError, match=r"colorsys\.py was not imported when the network was fitted"):
        build_network(spec, network_file=shadowed / "network.py")


def test_a_first_import_is_refused_too(tmp_path: Path) -> None:
    alone = tmp_path / "alone.py"
    alone.write_text(
        "import colorsys\nfrom torch import nn\ndef build(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))"
    )
    spec = NetworkSpec.from_json(load_network(f"{alone}:build", image_shape=(3, 2, 2)).spec.to_json())
    shadowed = tmp_path / "shadowed"
    shadowed.mkdir()
    alone.rename(shadowed / alone.name)
    (shadowed / "colorsys.py").write_text("")
    with pytest.raises(InputError, match=r"colorsys\.py was not imported"):
        build_network(spec, network_file=shadowed / alone.name)
    build_network(replace(spec, source_files=None), network_file=shadowed / alone.name)  # of an earlier artifact


@pytest.mark.parametrize(
    ("callable_name", "error", "message"),
    [
        ("none", InputError, "no callable 'none'.*build"),
        ("scalar", NetworkError, "torch.nn.Module, got int"),
        ("broken", NetworkError, "KeyError"),
        ("script", NetworkError, "TorchScript.*return the Python module"),
    ],
)
def test_unusable_callables_are_refused(
    callable_name: str, error: type[Exception], message: str, user_file: Path
) -> None:
    with pytest.raises(error, match=message):
        load_network(f"{user_file}:{callable_name}", image_shape=SHAPE)


def test_the_code_that_runs_has_the_digest_despite_caches(user_file: Path) -> None:
    load_network(f"{user_file}:build", image_shape=SHAPE)
    times = user_file.stat().st_atime_ns, user_file.stat().st_mtime_ns
    user_file.write_text(USER_FILE.replace("num_classes=4", "num_classes=7"))
    os.utime(user_file, ns=times)
    assert load_network(f"{user_file}:build", image_shape=SHAPE).spec.num_classes == 7
    user_file.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(NetworkError, match="SystemExit"):
        load_network(f"{user_file}:build", image_shape=SHAPE)


def test_a_torchvision_preset_is_loaded_or_refused_but_never_another_network(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The download is replaced by fresh weights; everything behind it is torchvision's own."""
    from torchvision.models import Inception_V3_Weights, ResNet18_Weights, inception_v3, resnet18
    from torchvision.models._api import WeightsEnum

    torch.manual_seed(seed)
    fresh = {ResNet18_Weights: resnet18, Inception_V3_Weights: lambda: inception_v3(init_weights=False)}
    states = {kind: make().state_dict() for kind, make in fresh.items()}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *_, **__: states[type(self)])
    loaded = load_network("torchvision:resnet18:DEFAULT")
    assert loaded.spec.num_classes == 1000
    assert loaded.spec.image_shape == (3, 224, 224)
    assert loaded.classes is not None
    assert preset_size("torchvision:resnet18:DEFAULT") == (256, 224)
    with pytest.raises(NetworkError, match=r"PATH\.py:CALLABLE"):
        load_network("torchvision:inception_v3:DEFAULT")


def test_files_that_fail_or_do_not_exist_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(NetworkError, match="nothing_of_that_name"):
        load_network(f"{tmp_path / 'bad.py'}:build")
    with pytest.raises(InputError, match="existing Python file"):
        load_network(f"{tmp_path / 'none.py'}:build")
    with pytest.raises(InputError, match=r"PATH\.py:CALLABLE"):
        load_network(f"{tmp_path / 'bad.py'}")


def test_errors_of_unknown_references_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="resnet20"):
        load_network("resnet21x")
    with pytest.raises(UnknownNameError, match="resnet18"):
        load_network("torchvision:resnet17")
    with pytest.raises(UnknownNameError, match="IMAGENET1K_V1"):
        load_network("torchvision:resnet18:IMAGENET9")
    with pytest.raises(UnknownNameError, match="pretrained network"):
        load_network("pretrained:none")


def test_a_torchvision_constructor_takes_the_number_of_classes_and_a_weight_file(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    shape = (3, 32, 32)
    loaded = load_network("torchvision:resnet18", num_classes=7, image_shape=shape)
    assert not loaded.trained
    assert loaded.spec.num_classes == 7
    state = {name: tensor.contiguous() for name, tensor in loaded.network.network.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    again = load_network(f"torchvision:resnet18:{tmp_path / 'w.safetensors'}", num_classes=7, image_shape=shape)
    assert again.trained
    torch.testing.assert_close(_logits(again.network, seed), _logits(loaded.network, seed), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS.names())
def test_every_network_gives_logits_and_can_be_built_again(name: str) -> None:
    constructor = NETWORKS.load(name)
    with torch.device("meta"):
        logits = constructor(num_classes=3).eval()(torch.empty(2, 3, 32, 32))
    assert logits.shape == (2, 3)


def test_a_checkpoint_is_restored_and_a_changed_one_is_refused(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    loaded = load_network("resnet8", num_classes=3, image_shape=SHAPE, mean=(0.5,) * 3, std=(0.2,) * 3)
    classes = ("a", "b", "c")
    save_checkpoint(tmp_path / "run", loaded.network, loaded.spec, classes, {"seed": seed})
    again = load_checkpoint(tmp_path / "run")
    torch.testing.assert_close(_logits(again.network, seed), _logits(loaded.network, seed), rtol=0, atol=0)
    assert (again.classes, again.provenance, again.spec) == (classes, {"seed": seed}, loaded.spec)
    run = str(tmp_path / "run")
    assert load_network(run, mean=(0.5,) * 3).reference == run
    with pytest.raises(InputError, match="has its own normalisation; leave --mean"):
        load_network(run, mean=(0.4,) * 3)

    save_checkpoint(tmp_path / "half", loaded.network, loaded.spec, classes, {}, half=True)
    torch.testing.assert_close(
        _logits(load_checkpoint(tmp_path / "half").network, seed), _logits(loaded.network, seed), rtol=0.05, atol=0.05
    )

    weights = tmp_path / "run" / "network.safetensors"
    content = bytearray(weights.read_bytes())
    content[seed % len(content)] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="was changed"):
        load_checkpoint(tmp_path / "run")
    header = tmp_path / "half" / "network.json"
    header.write_text(header.read_text().replace('"protocol": 1', '"protocol": 2'))
    with pytest.raises(CheckpointError, match="protocol 1, got 2"):
        load_checkpoint(tmp_path / "half")
    header.write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        load_checkpoint(tmp_path / "half")
    with pytest.raises(CheckpointError, match="plumbline train"):
        load_checkpoint(tmp_path)


GOOD = NetworkSpec("plumbline", "resnet8", {"num_classes": 3}, 3, (3, 8, 8), (0.0,) * 3, (1.0,) * 3).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"source": "pickle"},
        {"name": "os.system"},
        {"name": 3},
        {"arguments": {"num_classes": "3"}},
        {"arguments": {"a b": 3}},
        {"arguments": {"num_classes": 10**9}},
        {"num_classes": 0},
        {"num_classes": True},
        {"image_shape": [3, 8]},
        {"image_shape": [1, 8, 8]},
        {"mean": [0.0]},
        {"std": None},
        {"source_sha256": "0" * 64},
        {"source": "file", "source_sha256": "../../etc/passwd"},
        {"source_files": {"utils.py": "0" * 64}},
        *(
            {"source": "file", "source_sha256": "0" * 64, "source_files": files}
            for files in ([], {"/etc/x.py": "0" * 64}, {"a/../../x.py": "0" * 64}, {"x.so": "0" * 64}, {"x.py": "0"})
        ),
        {"more": 1},
    ],
    ids=str,
)
def test_a_specification_from_outside_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        NetworkSpec.from_json({**GOOD, **change})


def test_a_network_that_gives_no_logits_is_refused(user_file: Path) -> None:
    user_file.write_text("from torch import nn\ndef build():\n    return nn.Conv2d(3, 4, 3)\n")
    with pytest.raises(NetworkError, match=r"logits \(B, K\)"):
        load_network(f"{user_file}:build", image_shape=SHAPE)
    user_file.write_text(USER_FILE.replace("return Net(num_classes)", "return Net(4)"))
    with pytest.raises(NetworkError, match=r"expected 6 logits.*got 4"):
        load_network(f"{user_file}:build", image_shape=SHAPE, num_classes=6)
    user_file.write_text("from torch import nn\ndef build():\n    return nn.Linear(7, 4)\n")
    with pytest.raises(NetworkError, match="pass the size that it was made for"):
        load_network(f"{user_file}:build", image_shape=SHAPE)
