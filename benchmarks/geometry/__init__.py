"""Paths of images through networks."""
