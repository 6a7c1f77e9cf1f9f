"""Split a network into modules for module-wise training and early exits."""
