"""Figures, drawings and the page of the paths through given networks."""
