"""Measure the geometry of paths: transport cost, line shape, optimal transport."""
