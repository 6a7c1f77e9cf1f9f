"""Hostile input against a real server process on loopback; `python -m tests.fuzz` runs it, bounded and seeded."""
