"""Committed networks: their files, and the page that lists them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.datasets.base import load_dataset
from models.intervals import clopper_pearson
from models.loading import load_network
from models.training.loop import accuracy

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = sorted((ROOT / "models" / "pretrained").iterdir())

every_network = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def _provenance(folder: Path) -> dict[str, Any]:
    provenance: dict[str, Any] = json.loads((folder / "network.json").read_text(encoding="utf-8"))["provenance"]
    return provenance


@every_network
def test_a_committed_network_has_about_the_accuracy_that_it_states(folder: Path) -> None:
    network = load_network(f"pretrained:{folder.name}").network
    sample = load_dataset("cifar10_sample").limited(128)
    hits = round(accuracy(network, sample) * len(sample))
    assert _provenance(folder)["test_accuracy"] in clopper_pearson(hits, len(sample), confidence=0.999)


@every_network
def test_a_committed_network_is_small_and_has_its_provenance(folder: Path) -> None:
    assert (folder / "network.safetensors").stat().st_size <= 8_000_000
    provenance = _provenance(folder)
    assert provenance["test_images"] == 10_000
    assert {"seed", "epochs", "batch_size"} <= set(provenance["recipe"])
    assert {"objective", "dataset_sha256", "versions", "machine", "revision"} <= set(provenance)


def test_the_page_lists_every_committed_network_with_its_accuracy() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `pretrained:([\w-]+)` \|.*?\| (\d+) \| ([\d.]+)% \((.*?)\) \|$", page, flags=re.MULTILINE)
    expected = []
    for folder in FOLDERS:
        provenance = _provenance(folder)
        rate, count = provenance["test_accuracy"], provenance["test_images"]
        interval = clopper_pearson(round(rate * count), count)
        shown = f"{100 * interval.low:.1f}% to {100 * interval.high:.1f}%"
        expected.append((folder.name, str(provenance["recipe"]["epochs"]), f"{100 * rate:.1f}", shown))
    assert sorted(rows) == expected
