"""The serving set: the command line, `score` and the server work without any optional package."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.extras import EXTRAS, missing_extra
from tests.fuzz.process import MODEL, serving

ARTIFACT = Path(__file__).parent / "golden" / "protocol-2" / "fusion"
# FastAPI itself depends on opentelemetry-api; the extra adds the SDK.
BLOCKED = sorted(set(EXTRAS) - {"opentelemetry"})


@pytest.fixture(autouse=True)
def _without_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the optional packages from every process that a test starts."""
    lines = ["import sys", f"sys.modules.update(dict.fromkeys({BLOCKED!r}))"]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    pixels = np.load(ARTIFACT.parents[1] / "images.npz")["images"][0]
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return path


def _plumbline(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("words", [["--help"], ["list"], ["fit", "--help"]])
def test_help_and_list_need_no_extra(words: list[str]) -> None:
    done = _plumbline(*words)
    assert done.returncode == 0, done.stderr


def test_score_needs_no_extra(image: Path) -> None:
    done = _plumbline("score", "--artifact", str(ARTIFACT), str(image))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flagged"] is False


@pytest.mark.slow
def test_the_server_needs_no_extra(image: Path) -> None:
    with serving(ARTIFACT) as server:
        request = urllib.request.Request(f"{server.url}/v1/models/{MODEL}/predict", image.read_bytes())
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200


def test_a_missing_package_is_an_error_that_names_its_extra(tmp_path: Path) -> None:
    words = [
        "fit",
        "--network",
        "pretrained:cifar10-resnet20",
        "--dataset",
        "digits",
        "--out",
        str(tmp_path / "artifact"),
    ]
    done = _plumbline(*words)
    assert done.returncode == 2
    assert "pip install 'plumbline[" in done.stderr


def test_a_package_of_no_extra_has_no_hint() -> None:
    assert missing_extra(ModuleNotFoundError(name="unknown")) is None
    assert missing_extra(ModuleNotFoundError()) is None
