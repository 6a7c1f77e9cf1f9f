"""Densities and distances: Gaussians, nearest neighbours, tail scores."""
