"""Decode and preprocess images, and make views of them."""
