"""What detectors read of a network: the features, the requests for them, and their extraction."""

from models.features.extraction import extract_batch, extract_features, forward_pass
from models.features.features import Features
from models.features.requests import FeatureRequest, ForwardPass, Head, Needs, needs_of

__all__ = [
    "FeatureRequest",
    "Features",
    "ForwardPass",
    "Head",
    "Needs",
    "extract_batch",
    "extract_features",
    "forward_pass",
    "needs_of",
]
