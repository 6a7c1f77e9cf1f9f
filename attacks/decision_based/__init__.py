"""Shared parts of attacks that see decisions or scores only."""
