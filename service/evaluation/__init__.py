"""Evaluate detectors on attacked and out-of-distribution images."""
