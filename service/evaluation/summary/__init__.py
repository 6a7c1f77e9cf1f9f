"""Summarise an evaluation as JSON values: metrics, intervals and warnings."""
