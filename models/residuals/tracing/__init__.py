"""Trace one forward pass: its tensors, function calls and module boundaries."""
