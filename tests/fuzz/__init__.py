"""Fuzz tests of a server process on loopback, with a seed and a time limit: `python -m tests.fuzz`."""
