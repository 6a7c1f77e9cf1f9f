"""Damaged artifacts and parts of other artifacts are refused."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors_torch
from torch import Tensor

from detector.artifact import load_artifact
from detector.artifact.manifest import FILES, MANIFEST, read_checked
from detector.pipeline import Pipeline
from models.errors import ArtifactError
from models.files import sha256_of
from models.loading import build_network
from tests.detector.artifact.saved import reseal, save
from tests.detector.conftest import SPEC


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_pointer_of_git_lfs_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ArtifactError, match="git lfs pull"):
        load_artifact(folder)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_any_flipped_byte_is_found(folder: Path, rng: np.random.Generator, name: str) -> None:
    whole = (folder / name).read_bytes()
    places = {0, 1, 7, 8, len(whole) // 2, len(whole) - 1, *rng.integers(len(whole), size=25).tolist()}
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            load_artifact(folder)
    (folder / name).write_bytes(whole)
    load_artifact(folder)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_truncated_lengthened_and_missing_files_are_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n"):
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            load_artifact(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_artifact(folder)


def test_extra_files_and_missing_folders_are_found(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text("")
    with pytest.raises(ArtifactError, match=r"code\.py"):
        load_artifact(folder)
    with pytest.raises(ArtifactError, match="no folder"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_links_pipes_and_folders_in_place_of_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "real")
    for put in (lambda p: p.symlink_to(tmp_path / "real"), os.mkfifo, Path.mkdir):
        put(folder / name)
        with pytest.raises(ArtifactError, match="ordinary file"):
            load_artifact(folder)
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()


def test_files_above_their_size_limit_are_not_read(folder: Path) -> None:
    with (folder / "calibration.safetensors").open("ab") as file:
        file.truncate(FILES["calibration.safetensors"] + 1)  # sparse
    with pytest.raises(ArtifactError, match="at most"):
        load_artifact(folder)


def test_reading_takes_memory_for_the_file_and_not_for_its_limit(folder: Path) -> None:
    name = "network.safetensors"
    size = (folder / name).stat().st_size
    entry = {"bytes": size, "sha256": sha256_of(folder / name)}
    tracemalloc.start()
    try:
        assert len(read_checked(folder / name, entry)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * size + 2**20 < FILES[name]


def test_a_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, statistics_spec = folder / "detector.safetensors", os.fstat

    def measured_then_grown(descriptor: int) -> os.stat_result:
        status = statistics_spec(descriptor)
        if status.st_ino == path.stat().st_ino:
            with path.open("ab") as file:
                file.write(b"more")
        return status

    monkeypatch.setattr(os, "fstat", measured_then_grown)
    with pytest.raises(ArtifactError, match="while it was read"):
        load_artifact(folder)


@pytest.mark.parametrize("protocol", [0, 3, -1, True, 1.0, "1", None])
def test_unknown_protocols_are_named(folder: Path, protocol: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"protocol": protocol}))
    with pytest.raises(ArtifactError, match="protocol 1 or 2"):
        load_artifact(folder)


@pytest.mark.parametrize("content", ["[]", "3", '{"protocol": 1}', "{", "[" * 100_000, '{"protocol": NaN}', "\ufeff{}"])
def test_other_files_are_no_manifest(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_a_threshold_of_nan_in_the_manifest_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["calibration"]["threshold"] = float("nan")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="NaN is not JSON"):
        load_artifact(folder)


@pytest.mark.parametrize("name", list(FILES))
def test_files_of_another_artifact_are_found(folder: Path, tmp_path: Path, other_pipeline: Pipeline, name: str) -> None:
    save(tmp_path / "other", other_pipeline)
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ArtifactError, match="another artifact"):
        load_artifact(folder)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def test_another_networks_weights_are_found_even_with_right_hashes(folder: Path) -> None:
    torch.manual_seed(31337)
    other = build_network(SPEC)
    (folder / "network.safetensors").write_bytes(safetensors_torch.save(contiguous(other.state_dict())))
    reseal(folder)
    with pytest.raises(ArtifactError, match="another network's weights"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "arguments", [{"name": "resnet20"}, {"arguments": {"num_classes": 5}, "num_classes": 5}, {"std": (0.5, 0.25, 0.25)}]
)
def test_another_architecture_is_found(folder: Path, arguments: dict[str, Any]) -> None:
    spec = replace(SPEC, **arguments)
    reseal(folder, lambda manifest: manifest.update(network=spec.to_json()))
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_weights_that_are_not_finite_or_of_another_type_are_refused(folder: Path) -> None:
    def rewrite(change: Callable[[Tensor], Tensor]) -> None:
        tensors = safetensors_torch.load((folder / "network.safetensors").read_bytes())
        name = next(name for name in sorted(tensors) if name.endswith("weight"))
        tensors[name] = change(tensors[name]).contiguous()
        (folder / "network.safetensors").write_bytes(safetensors_torch.save(tensors))
        reseal(folder)

    rewrite(lambda tensor: tensor.half())
    with pytest.raises(ArtifactError, match="float16"):
        load_artifact(folder)
    rewrite(lambda tensor: torch.full_like(tensor, torch.nan).float())
    with pytest.raises(ArtifactError, match="finite weights"):
        load_artifact(folder)
    rewrite(lambda tensor: tensor[:-1])
    with pytest.raises(ArtifactError, match="another network's weights"):
        load_artifact(folder)
