"""Resolve a request into a plan: load and validate everything before any attack runs."""
