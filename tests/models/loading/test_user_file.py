"""A user's file imports what is beside it, whatever its names are, and changes nothing for other code."""

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import models
from attacks.fgm import FGM
from attacks.generation.shard import ShardAttack
from models.errors import InputError, NetworkError
from models.loading import NetworkSpec, build_network, load_network
from models.runners.packing import pack

SHAPE = (3, 8, 8)

# The layout of the most used repositories for CIFAR: packages and modules with the names of ours, or of each other.
REPOSITORY = {
    "net.py": """
from models import Net
from utils import LABELS
import models.blocks as blocks, models.deep.scale
import importlib

def build():
    return Net(len(LABELS))

def build_lazily():
    from models.lazy import Lazy
    return Lazy()

def build_by_name():
    return importlib.import_module("models.lazy").Lazy()

def build_qualified():
    return models.Net(blocks.WIDTH + models.deep.scale.EXTRA)
""",
    "models/__init__.py": "from .network import *\n",
    "models/network.py": """
from torch import nn
from models.blocks import WIDTH
from . import blocks

__all__ = ["Net"]

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.block = blocks.Block()
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))
""",
    "models/blocks.py": """
from torch import nn
import utils

WIDTH = 4

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return utils.add(x, self.conv(x))
""",
    "models/lazy.py": "from models.network import Net\n\ndef Lazy():\n    return Net(7)\n",
    "models/deep/scale.py": "EXTRA = 1\n",
    "utils.py": "LABELS = 'abcdef'\n\ndef add(x, y):\n    return x + y\n",
}


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return _write(tmp_path / "repository", REPOSITORY)


def _classes(reference: str) -> int:
    return load_network(reference, image_shape=SHAPE).spec.num_classes


@pytest.mark.parametrize(
    ("name", "classes"), [("build", 6), ("build_lazily", 7), ("build_by_name", 7), ("build_qualified", 5)]
)
def test_a_file_gets_the_packages_beside_it(repository: Path, name: str, classes: int) -> None:
    before, path = {name: module for name, module in sys.modules.items() if "user" not in name}, list(sys.path)
    assert _classes(f"{repository / 'net.py'}:{name}") == classes
    assert sys.modules["models"] is models
    assert "utils" not in sys.modules
    assert sys.path == path
    assert all(sys.modules[name] is module for name, module in before.items())


def test_files_with_modules_of_equal_names_are_apart(repository: Path, tmp_path: Path) -> None:
    other = _write(tmp_path / "other", {**REPOSITORY, "utils.py": REPOSITORY["utils.py"].replace("abcdef", "ab")})
    references = [f"{folder / 'net.py'}:build" for folder in (repository, other)]
    assert [_classes(reference) for reference in (*references, *references)] == [6, 2, 6, 2]


def test_a_file_inside_a_package_is_imported_as_part_of_it(repository: Path) -> None:
    (repository / "models" / "relative.py").write_text(
        "from .network import Net\nfrom utils import LABELS\n\ndef build():\n    return Net(len(LABELS) + 2)\n"
    )
    assert _classes(f"{repository / 'models' / 'relative.py'}:build") == 8
    _write(repository / "scripts", {"net.py": "from ..utils import LABELS\nfrom ..models import Net\n"
                                              "def build():\n    return Net(len(LABELS))\n"})  # fmt: skip
    assert _classes(f"{repository / 'scripts' / 'net.py'}:build") == 6


def test_folders_that_a_file_adds_to_the_import_path_are_searched(repository: Path) -> None:
    scripts = _write(repository / "scripts", {"net.py": f"""
import sys
sys.path.insert(0, {str(repository)!r})
from models import Net

def build():
    from utils import LABELS
    return Net(len(LABELS))
"""})  # fmt: skip
    assert _classes(f"{scripts / 'net.py'}:build") == 6
    assert str(repository) not in sys.path


def test_our_packages_are_found_if_the_folder_has_none_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.pt").write_bytes(b"0")  # a folder of data, not of code
    (tmp_path / "net.v2.py").write_text(
        "from models.networks.resnet import resnet8\n\ndef build():\n    return resnet8(num_classes=3)\n"
    )
    assert _classes(f"{tmp_path / 'net.v2.py'}:build") == 3


def test_a_failed_import_names_modules_as_the_user_does(repository: Path) -> None:
    for line, message in (
        ("import models.nothing", "ModuleNotFoundError: No module named 'models.nothing'"),
        ("from models import Nothing", "cannot import name 'Nothing' from 'models'"),
    ):
        (repository / "broken.py").write_text(line)
        with pytest.raises(NetworkError, match=message):
            _classes(f"{repository / 'broken.py'}:build")
    assert sys.modules["models"] is models


def test_other_threads_see_our_packages_while_a_file_runs(tmp_path: Path) -> None:
    gate = ModuleType("gate_of_this_test")
    entered, leave = threading.Event(), threading.Event()
    gate.__dict__.update(entered=entered, leave=leave)
    _write(tmp_path, {"net.py": "import models\ndef build():\n    return models.Net()\n",
                      "models.py": "import gate_of_this_test as gate\nfrom torch import nn\ngate.entered.set()\n"
                                   "gate.leave.wait(60)\n"
                                   "Net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 9))\n"})  # fmt: skip
    sys.modules[gate.__name__] = gate
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(_classes(f"{tmp_path / 'net.py'}:build")))
    try:
        thread.start()
        assert entered.wait(60)
        from models.networks.resnet import resnet8

        assert resnet8.__module__ == "models.networks.resnet"
    finally:
        leave.set()
        thread.join(60)
        del sys.modules[gate.__name__]
    assert counts == [9]


def test_imported_files_are_recorded_and_checked(repository: Path) -> None:
    reference = f"{repository / 'net.py'}:build_lazily"
    spec = load_network(reference, image_shape=SHAPE).spec
    lines = {"models/__init__.py", "models/network.py", "models/blocks.py", "models/lazy.py", "models/deep/scale.py"}
    assert set(spec.source_files) == {*lines, "utils.py"}
    restored = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert restored == spec
    build_network(restored, network_file=reference)
    utils = repository / "utils.py"
    utils.write_text(utils.read_text().replace("x + y", "x - y"))
    with pytest.raises(InputError, match=r"utils\.py with the SHA-256.*beside it the files that it imports"):
        build_network(restored, network_file=reference)
    utils.unlink()
    with pytest.raises(InputError, match="got no file"):
        build_network(restored, network_file=reference)


def test_a_changed_file_is_loaded_again(repository: Path) -> None:
    reference = f"{repository / 'net.py'}:build"
    first = load_network(reference, image_shape=SHAPE).network.network
    assert type(load_network(reference, image_shape=SHAPE).network.network) is type(first)
    utils = repository / "utils.py"
    utils.write_text(utils.read_text().replace("abcdef", "abc"))
    assert _classes(reference) == 3


def test_worker_processes_get_the_classes_of_imported_files(repository: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network: nn.Module = load_network(f"{repository / 'net.py'}:build", image_shape=SHAPE).network
    packed = pack(ShardAttack(network, FGM(), "cpu"))
    code = (
        "import pickle, sys, torch; torch.set_num_threads(1); network = pickle.load(sys.stdin.buffer).network; "
        "pickle.dump(network(torch.full((2, 3, 8, 8), 0.25)).tolist(), sys.stdout.buffer)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=True, timeout=240)
    expected = network(torch.full((2, *SHAPE), 0.25))
    torch.testing.assert_close(torch.tensor(pickle.loads(done.stdout)), expected)
