"""Write, read and verify artifacts."""

from detector.artifact.read import Artifact, load_artifact
from detector.artifact.write import check_destination, save_artifact

__all__ = ["Artifact", "check_destination", "load_artifact", "save_artifact"]
