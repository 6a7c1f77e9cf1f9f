"""Base classes of the detectors."""
