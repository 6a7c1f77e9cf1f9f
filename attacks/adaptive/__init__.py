"""Attacks on the network and the detector together."""
