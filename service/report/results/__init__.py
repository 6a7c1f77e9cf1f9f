"""Selections from an evaluation and its figures for the report: drawn results, baselines, published figures, text."""
