"""Classifiers fitted by scikit-learn, stored and evaluated as plain arrays."""
