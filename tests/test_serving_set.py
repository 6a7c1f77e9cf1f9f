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


CODE = """
import json, sys
from service.cli.main import main
print(json.dumps([main(words) for words in json.loads(sys.argv[1])]))
"""


def test_help_list_and_score_need_no_extra_and_a_missing_package_names_its_extra(image: Path, tmp_path: Path) -> None:
    fit = [
        "fit",
        "--network",
        "pretrained:cifar10-resnet20",
        "--dataset",
        "digits",
        "--out",
        str(tmp_path / "artifact"),
    ]
    commands = [["--help"], ["list"], ["fit", "--help"], ["score", "--artifact", str(ARTIFACT), str(image)], fit]
    command = [sys.executable, "-c", CODE, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    *_, verdict, statuses = done.stdout.splitlines()
    assert json.loads(statuses) == [0, 0, 0, 0, 2], done.stderr
    assert json.loads(verdict)["flagged"] is False
    assert "pip install 'plumbline[" in done.stderr


@pytest.mark.slow
def test_the_server_needs_no_extra(image: Path) -> None:
    with serving(ARTIFACT) as server:
        request = urllib.request.Request(f"{server.url}/v1/models/{MODEL}/predict", image.read_bytes())
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200


def test_a_package_of_no_extra_has_no_hint() -> None:
    assert missing_extra(ModuleNotFoundError(name="unknown")) is None
    assert missing_extra(ModuleNotFoundError()) is None
