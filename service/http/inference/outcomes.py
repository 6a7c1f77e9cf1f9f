"""The outcome of scoring one image."""

from detector.pipeline import Verdict
from models.errors import ImageError
from service.http.batching.errors import ScoringError

__all__ = ["Outcome"]

Outcome = Verdict | ImageError | ScoringError
