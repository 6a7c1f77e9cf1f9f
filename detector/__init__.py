"""Detectors of adversarial and out-of-distribution images, from the path of an image through a network."""

from detector.artifact import Artifact, load_artifact, save_artifact
from detector.base.detector import Detector
from detector.calibration import Calibration, Interval, clopper_pearson
from detector.features.statistics import natural_band
from detector.pipeline import PathOfImage, Pipeline, Verdict
from detector.splits import Split, split_originals

__all__ = [
    "Artifact",
    "Calibration",
    "Detector",
    "Interval",
    "PathOfImage",
    "Pipeline",
    "Split",
    "Verdict",
    "clopper_pearson",
    "load_artifact",
    "natural_band",
    "save_artifact",
    "split_originals",
]
