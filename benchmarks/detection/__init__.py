"""Evaluations of detectors on real images."""
