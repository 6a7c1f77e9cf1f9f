"""The option `classifier` of detectors that can learn from attacked images."""

from typing import Any

__all__ = ["NeedsAdversarial"]


class NeedsAdversarial:
    """Whether a detector needs adversarial images: by its option `classifier`; on the class, by the default."""

    def __get__(self, detector: Any, kind: type[Any]) -> bool:
        if detector is not None:
            return bool(detector.classifier != "none")
        return bool(kind._options()["classifier"].default != "none")
