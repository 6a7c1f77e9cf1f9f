"""Rewrite a network's graph so that it returns statistics of its path."""
