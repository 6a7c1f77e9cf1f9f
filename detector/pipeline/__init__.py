"""From images to verdicts: one forward pass, the detector, the calibrated threshold."""

from detector.pipeline.pipeline import Pipeline
from detector.pipeline.verdict import PathOfImage, Verdict

__all__ = ["PathOfImage", "Pipeline", "Verdict"]
