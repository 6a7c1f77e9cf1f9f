"""Signed artifacts."""

import json
from pathlib import Path
from typing import Any

import pytest

from detector.artifact import load_artifact
from detector.artifact.manifest import MANIFEST
from detector.pipeline import Pipeline
from models.errors import ArtifactError, InputError
from tests.detector.artifact.saved import reseal, save


def test_signed_artifacts(tmp_path: Path, pipeline: Pipeline, key: Path) -> None:
    folder = tmp_path / "artifact"
    save(folder, pipeline, sign_key=key)
    load_artifact(folder, verify_key=key)
    load_artifact(folder)
    other = tmp_path / "other key"
    other.write_bytes(bytes(32))
    with pytest.raises(ArtifactError, match="signature by the given key"):
        load_artifact(folder, verify_key=other)
    reseal(folder, lambda fields: fields.update(provenance={"forged": True}), key=b"a forger's own key of 32 bytes...")
    with pytest.raises(ArtifactError, match="signature by the given key"):
        load_artifact(folder, verify_key=key)


def test_unsigned_artifacts_are_refused_when_a_key_is_given(folder: Path, key: Path) -> None:
    with pytest.raises(ArtifactError, match="not signed"):
        load_artifact(folder, verify_key=key)


@pytest.mark.parametrize("signature", ["", "ü", 3])
def test_odd_signatures_are_refused(folder: Path, key: Path, signature: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | {"signature": signature}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    with pytest.raises(ArtifactError, match="signature"):
        load_artifact(folder, verify_key=key)


def test_invalid_keys_are_refused(tmp_path: Path, pipeline: Pipeline, folder: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.write_bytes(b"password")
    long.write_bytes(bytes(5000))
    for bad in (short, long, tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="key file"):
            save(tmp_path / "new", pipeline, sign_key=bad)
        with pytest.raises(InputError, match="key file"):
            load_artifact(folder, verify_key=bad)
    assert not (tmp_path / "new").exists()
