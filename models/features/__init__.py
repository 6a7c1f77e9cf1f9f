"""Features of images for detectors, the requests for them, and their extraction."""

from models.features.extraction import extract_features
from models.features.extractor import FeatureExtractor
from models.features.features import Features
from models.features.requests import FeatureRequest, ForwardPass, Head, Needs, needs_of

__all__ = [
    "FeatureExtractor",
    "FeatureRequest",
    "Features",
    "ForwardPass",
    "Head",
    "Needs",
    "extract_features",
    "needs_of",
]
