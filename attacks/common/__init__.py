"""Base class and shared functions of attacks."""
