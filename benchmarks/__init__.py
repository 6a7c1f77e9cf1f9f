"""Measurements, each a module that runs on its own: ``python -m benchmarks.speed.extraction [--out FILE]``."""
