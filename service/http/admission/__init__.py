"""Checks of every request before its body is read: size, API key, time."""
