"""Paths of the prediction routes, paths that need no API key, and names of models."""

import re
from dataclasses import dataclass

__all__ = [
    "INFER_PATH",
    "INFER_VERSION_PATH",
    "MAX_NAME_LENGTH",
    "MODEL_PREDICT_PATH",
    "OPEN_PATHS",
    "PREDICT_PATH",
    "PredictionPath",
    "is_model_name",
    "prediction_path",
]

PREDICT_PATH = "/v1/predict"
MODEL_PREDICT_PATH = "/v1/models/{model}/predict"
INFER_PATH = "/v2/models/{model}/infer"
INFER_VERSION_PATH = "/v2/models/{model}/versions/{version}/infer"

# Load balancers probe these without a key; the responses reveal nothing about the models.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})

MAX_NAME_LENGTH = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")
_PATTERNS = {
    template: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
    for template in (PREDICT_PATH, MODEL_PREDICT_PATH, INFER_PATH, INFER_VERSION_PATH)
}


@dataclass(frozen=True)
class PredictionPath:
    """A request path that accepts images.

    Args:
        template: the route's name in the OpenAPI description, metrics and traces.
        model: the name in the path; None: the first model.
        version: the version in the path; None: the current version.
    """

    template: str
    model: str | None = None
    version: str | None = None


def prediction_path(path: str) -> PredictionPath | None:
    """The parsed `path` if it accepts images, else None."""
    for template, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(path):
            return PredictionPath(template, **match.groupdict())
    return None


def is_model_name(name: str) -> bool:
    """Whether `name` is 1 to 64 letters, digits, dots, hyphens and underscores, starting with a letter or digit."""
    return _NAME.fullmatch(name) is not None
