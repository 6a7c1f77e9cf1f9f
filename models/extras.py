"""Optional packages by extra: the error for a missing one names the extra that installs it."""

import importlib
from typing import Any

from models.errors import MissingExtraError

__all__ = ["EXTRAS", "import_optional", "missing_extra"]

# Import name of each optional package → the extra in pyproject.toml that installs it.
EXTRAS = {
    "art": "attacks",
    "cloudpickle": "attacks",
    "datasets": "data",
    "fsspec": "data",
    "huggingface_hub": "networks",
    "jinja2": "report",
    "joblib": "attacks",
    "matplotlib": "report",
    "onnx": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxruntime",
    "openvino": "openvino",
    "pyarrow": "data",
    "opentelemetry": "telemetry",
    "pyautoattack": "attacks",
    "ray": "ray",
    "sklearn": "train",
    "threadpoolctl": "train",
    "timm": "networks",
    "tqdm": "train",
    "transformers": "networks",
}


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error that names the extra of the missing package; None for a package of no extra."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return MissingExtraError(f"the package {package!r} is not installed; run: pip install 'plumbline[{extra}]'")


def import_optional(package: str) -> Any:
    """The module of an optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as exc:
        if missing := missing_extra(exc):
            raise missing from exc
        raise
