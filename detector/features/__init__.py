"""Columns computed from a forward pass or from pixels."""
