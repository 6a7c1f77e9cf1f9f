"""Shared by all of this package: untrusted arrays, options, results."""
