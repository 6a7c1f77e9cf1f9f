"""Decode, batch and score images of served models."""
