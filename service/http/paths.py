"""The paths that take images, which the guard has to know before anything is routed."""

import re
from dataclasses import dataclass

__all__ = [
    "INFER_PATH",
    "INFER_VERSION_PATH",
    "LONGEST_NAME",
    "MODEL_PREDICT_PATH",
    "OPEN_PATHS",
    "PREDICT_PATH",
    "ImageRoute",
    "image_route",
    "is_model_name",
]

PREDICT_PATH = "/v1/predict"
MODEL_PREDICT_PATH = "/v1/models/{model}/predict"
INFER_PATH = "/v2/models/{model}/infer"
INFER_VERSION_PATH = "/v2/models/{model}/versions/{version}/infer"

# Routes that need no key: they tell a load balancer what it has to know, and nothing of what is served.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})

LONGEST_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_PATTERNS = {
    template: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))
    for template in (PREDICT_PATH, MODEL_PREDICT_PATH, INFER_PATH, INFER_VERSION_PATH)
}


@dataclass(frozen=True)
class ImageRoute:
    """A path that takes images.

    Args:
        template: as the routes and the metrics name it.
        model: the name in the path; None: the first model.
        version: the version in the path; None: the one that is served.
    """

    template: str
    model: str | None = None
    version: str | None = None


def image_route(path: str) -> ImageRoute | None:
    """What `path` asks for; None where it takes no images."""
    for template, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(path):
            return ImageRoute(template, **found.groupdict())
    return None


def is_model_name(name: str) -> bool:
    """Whether a model may be called so: 1 to 64 letters, digits, dots, hyphens and underscores, no dot first."""
    return _NAME.fullmatch(name) is not None
