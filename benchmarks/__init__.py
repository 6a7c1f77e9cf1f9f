"""Measurements, each a module that runs as ``python -m benchmarks NAME [OPTION …]``."""
