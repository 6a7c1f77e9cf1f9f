"""Extract the features that detectors use from a forward pass."""
