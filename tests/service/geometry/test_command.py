"""`plumbline geometry`: its files and its errors."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.datasets.base import ImageDataset
from models.loading import load_network
from service.cli.main import main
from service.geometry.networks.settings import GeometrySettings
from service.jobs.geometry import measure_all
from tests.service.cli.command_line import request_of

pytestmark = pytest.mark.slow

NETWORKS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x.relu())

def residual():
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), Block(6), Block(6), nn.Conv2d(6, 8, 2, stride=2), Block(8),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

def plain():
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))

def without_blocks():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORKS)
    torch.manual_seed(seed)
    return tmp_path


def test_networks_side_by_side_from_the_command_line(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "a&b.py").write_text(NETWORKS)
    words = ["geometry", "nets.py:residual", "a&b.py:plain", "--limit", "40", "--transport-images", "15"]
    assert main([*words, "--epsilon", "8/255", "--noise", "0.05", "--out", "report"]) == 0
    printed = capsys.readouterr().out
    assert "nets.py:residual" in printed
    assert "line-shape score, median" in printed
    assert sorted(path.name for path in (shop / "report").iterdir()) == ["report.html", "report.json"]

    def refused(constant: str) -> float:
        raise AssertionError(constant)

    found = json.loads((shop / "report" / "report.json").read_text(), parse_constant=refused)
    assert found["schema"] == 1
    assert found["dataset"]["images"] == 40
    assert found["settings"]["epsilon"] == [8 / 255]
    residual, plain = found["networks"]
    assert [stage["shape"] for stage in residual["stages"]] == [[6, 8, 8], [8, 4, 4]]
    assert [stage["blocks"] for stage in residual["stages"]] == [[0, 1], [2]]
    assert len(plain["blocks"]) == 1
    assert all(math.isfinite(number) for number in numbers_in(found))

    page = (shop / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<svg") == 2 + 2 + 3 + 2
    assert "a&amp;b.py:plain" in page
    assert "a&b" not in page


def test_equal_names_are_numbered_and_few_images_are_remarked_on(shop: Path, data: ImageDataset) -> None:
    loaded = load_network("nets.py:plain", image_shape=(3, 8, 8))
    images = replace(data, classes=tuple("abcdefghij"))
    measured, provenance = measure_all([loaded, loaded], images, GeometrySettings(), progress=False)
    assert [each.name for each in measured] == list(provenance["trained"]) == ["nets.py:plain (1)", "nets.py:plain (2)"]
    assert measured[0].figures["disturbed"] == []
    assert any("quantiles" in remark for remark in measured[0].figures["remarks"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nets.py:without_blocks"], "residual additions"),
        (["nets.py:residual", "--limit", "1"], "at least 2 images"),
        (["nets.py:residual", "--transport-images", "1"], "--transport-images"),
        (["nets.py:residual", "--epsilon", "much"], "--epsilon"),
        (["nets.py:residual", "--noise", "0"], "--noise"),
        (["nets.py:residual", "--noise", "1000"], "expected --noise above 0 and at most 1"),
        (["nets.py:residual", "--epsilon", "0.1,1000"], "expected --epsilon above 0 and at most 1"),
        (["nets.py:residual", "torchvision:resnet18:DEFAULT"], "--resize 256 --crop 224; give"),
        (["nets.py:residual", "--noise", "0.1,0.1"], "give each once"),
        (["./circles"], "no folder of that name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_options_are_refused_before_anything_is_written(
    words: list[str], message: str, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = [] if "--limit" in words else ["--limit", "20"]
    assert main(["geometry", *words, *limit, "--out", "report"]) == 2
    assert message in capsys.readouterr().err
    assert not (shop / "report").exists()


def test_an_interrupted_command_leaves_no_file_and_states_that_it_does_not_resume(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.geometry.networks.per_image.PathFigures.add", interrupted)
    assert main(["geometry", "nets.py:residual", "--limit", "20", "--out", "report"]) == 130
    assert "starts again" in capsys.readouterr().err
    assert not (shop / "report").exists()


def test_experiments_are_sub_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["geometry", "circles", "--help"]) == 0
    text = capsys.readouterr().out
    assert "plumbline geometry circles" in text
    assert "--instances" in text
    assert "--transport-images" not in text
    assert request_of("geometry", "a", "b", "--out", "c").networks == ("a", "b")
    assert request_of("geometry", "./circles", "--out", "c").networks == ("./circles",)
    assert request_of("geometry", "--out", "circles", "net", "circles").networks == ("net", "circles")
    assert request_of("geometry", "circles", "--tables", "19,21", "--out", "c").tables == (19, 21)
