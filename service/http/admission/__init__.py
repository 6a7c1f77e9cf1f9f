"""Decide which requests enter: keys, limits, load."""
