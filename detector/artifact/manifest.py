"""The manifest of an artifact: its canonical form, and its validation."""

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from models.errors import ArtifactError, InputError
from models.files import placeholder

__all__ = [
    "COMPANION",
    "FILES",
    "GRAPH",
    "MANIFEST",
    "PROTOCOL",
    "PROTOCOLS",
    "read_checked",
    "read_key",
    "read_manifest",
    "require_unicode",
    "sealed",
]

PROTOCOL = 2
PROTOCOLS = (1, 2)  # that can be read
MANIFEST = "manifest.json"

# File names and their size limits in bytes. No other file is opened, even if a manifest names one.
FILES = {
    "network.safetensors": 8 * 2**30,
    "detector.safetensors": 4 * 2**30,
    "calibration.safetensors": 2**30,
}
GRAPH = "engine.onnx"  # only in artifacts whose engine needs it
COMPANION = "companion.safetensors"  # only in artifacts whose detector compares with a companion
_LIMITS = {**FILES, GRAPH: 2**31, COMPANION: FILES["network.safetensors"]}
_MANIFEST_LIMIT = 16 * 2**20
_KEY_BYTES = (32, 4096)

_FIELDS = frozenset(
    {
        *("protocol", "versions", "files", "network", "preprocessing", "classes", "detector", "measure", "branches"),
        *("calibration", "provenance", "digest", "signature"),
    }
)
# Optional fields: the first manifests have no policy, torch in float32 has no entry, and blocks that are found by
# their additions have no pattern.
_LATER_FIELDS = frozenset({"decoding", "engine", "companion", "blocks"})


def sealed(fields: Mapping[str, Any], key: bytes | None) -> tuple[bytes, str]:
    """(the manifest's bytes, its digest): `fields` with protocol, digest and signature added.

    Raises:
        InputError: something in `fields` is not JSON.
    """
    try:
        manifest = {"protocol": PROTOCOL, **fields}
        digest = hashlib.sha256(_canonical(manifest)).hexdigest()
        signature = None if key is None else _signature(key, digest)
        return _canonical({**manifest, "digest": digest, "signature": signature}), digest
    except (TypeError, ValueError) as exc:
        raise InputError(f"expected provenance and parameters as JSON values, without NaN, got: {exc}") from exc


def read_manifest(folder: Path, key: bytes | None) -> dict[str, Any]:
    """The verified manifest of the artifact in `folder`: it is unchanged and, if a key is given, signed with it.

    Raises:
        ArtifactError: it is not JSON, of another protocol, changed, unsigned or signed by another key.
    """
    path = folder / MANIFEST
    content = _read_bounded(path, _MANIFEST_LIMIT)
    try:
        manifest = json.loads(content.decode("ascii"), parse_constant=_refuse_constant)
        rewritten = _canonical(manifest)
    except (ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path} is not valid JSON: {exc}; the file was changed or truncated") from exc
    protocol = manifest.get("protocol") if isinstance(manifest, dict) else type(manifest).__name__
    if not isinstance(manifest, dict) or type(protocol) is not int or protocol not in PROTOCOLS:
        raise ArtifactError(
            f"{path}: expected artifact protocol {' or '.join(map(str, PROTOCOLS))}, got {protocol!r}; use the version "
            "of Plumbline that wrote it, or fit again"
        )
    if set(manifest) - _LATER_FIELDS != _FIELDS:
        raise ArtifactError(f"{path}: expected the fields {sorted(_FIELDS | _LATER_FIELDS)}, got {sorted(manifest)}")
    signed = {name: value for name, value in manifest.items() if name not in ("digest", "signature")}
    digest = hashlib.sha256(_canonical(signed)).hexdigest()
    # The digest ignores spaces and the order of keys, so the bytes are compared, too.
    if manifest["digest"] != digest or rewritten != content:
        raise ArtifactError(
            f"{path}: expected the digest {digest}, got {manifest['digest']!r}; the manifest was changed"
        )
    _check_signature(path, manifest, key)
    _check_manifest_types(path, manifest)
    return manifest


def require_unicode(names: Iterable[str]) -> None:
    """Raise InputError unless every name can be encoded as UTF-8, which verdicts need."""
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise InputError(f"expected class names in Unicode, got {name!r:.200} with a lone surrogate") from exc


def read_key(path: Path) -> bytes:
    """The bytes of a key file.

    Raises:
        InputError: it cannot be read, or is too short or too long for a key.
    """
    least, most = _KEY_BYTES
    try:
        with path.open("rb") as file:
            key = file.read(most + 1)
    except OSError as exc:
        raise InputError(f"cannot read the key file {path}: {exc}") from exc
    if not least <= len(key) <= most:
        raise InputError(
            f"expected a key file of {least} to {most} bytes, got {path} with {len(key)} or more; "
            f"make one with: head -c {least} /dev/urandom > {path.name}"
        )
    return key


def read_checked(path: Path, entry: Mapping[str, Any]) -> bytes:
    """The bytes of one of `FILES`, or of the graph, verified against the size and hash in `entry`.

    Raises:
        ArtifactError: another size or hash, not an ordinary file, or too large.
    """
    content = _read_bounded(path, _LIMITS[path.name])
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != entry["bytes"] or digest != entry["sha256"]:
        raise ArtifactError(
            f"{path}: expected {entry['bytes']} bytes with SHA-256 {entry['sha256']}, got {len(content)} bytes with "
            f"{digest}; the file was changed or truncated, or belongs to another artifact"
        )
    return content


def _read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of an ordinary file that is not a link and not larger than `limit`."""
    try:
        # NOFOLLOW: a link could point to any file of this machine. NONBLOCK: opening a pipe would block.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read as an ordinary file: {exc}") from exc
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path}: expected an ordinary file, got something else")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise ArtifactError(f"{path}: expected at most {limit} bytes, got {status.st_size}")
        # Not `limit`, since read() allocates the whole buffer. One more byte, to detect a file that grew.
        content = file.read(status.st_size + 1)
    if fault := placeholder(content):
        raise ArtifactError(f"{path}: {fault}")
    if len(content) != status.st_size:
        raise ArtifactError(
            f"{path}: expected {status.st_size} bytes, got {len(content)} or more; the file changed while it was read"
        )
    return content


def _check_signature(path: Path, manifest: Mapping[str, Any], key: bytes | None) -> None:
    signature = manifest["signature"]
    if signature is not None and not isinstance(signature, str):
        raise ArtifactError(f"{path}: expected a signature or none, got {type(signature).__name__}")
    if key is None:
        return
    if signature is None:
        raise ArtifactError(
            f"{path}: the artifact is not signed, but a key was given; sign it with `plumbline fit --sign-key`"
        )
    # Compared as bytes: compare_digest refuses strings with non-ASCII characters.
    if not hmac.compare_digest(signature.encode(), _signature(key, manifest["digest"]).encode()):
        raise ArtifactError(f"{path}: expected a signature by the given key, got another; do not serve this artifact")


def _check_manifest_types(path: Path, manifest: Mapping[str, Any]) -> None:
    """Check the types of the fields that no other function checks."""
    files, classes, calibration = manifest["files"], manifest["classes"], manifest["calibration"]
    if not isinstance(files, dict) or set(files) - {GRAPH, COMPANION} != set(FILES):
        raise ArtifactError(f"{path}: expected hashes of {sorted(FILES)}, got {files!r:.200}")
    if ("companion" in manifest) != (COMPANION in files):
        raise ArtifactError(f"{path}: expected a companion with its file, or neither")
    for entry in files.values():
        if not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise ArtifactError(f"{path}: expected bytes and sha256 of each file, got {entry!r:.200}")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ArtifactError(f"{path}: expected class names, got {classes!r:.200}")
    try:
        require_unicode(classes)
    except InputError as exc:
        raise ArtifactError(f"{path}: {exc}") from exc
    if not isinstance(calibration, dict) or set(calibration) != {"count", "fpr", "threshold"}:
        raise ArtifactError(f"{path}: expected count, fpr and threshold of the calibration, got {calibration!r:.200}")
    if not isinstance(calibration["fpr"], float):
        raise ArtifactError(f"{path}: expected a false-positive rate, got {calibration['fpr']!r:.200}")
    if not isinstance(manifest.get("blocks", ""), str):
        raise ArtifactError(f"{path}: expected a pattern of module names, got {manifest['blocks']!r:.200}")
    if not isinstance(manifest["branches"], list) or not isinstance(manifest["provenance"], dict):
        raise ArtifactError(f"{path}: expected a list of branches and a provenance, got other types")


def _canonical(value: Any) -> bytes:
    """The canonical form of a manifest: ASCII JSON with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _signature(key: bytes, digest: str) -> str:
    return hmac.new(key, digest.encode("ascii"), hashlib.sha256).hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
