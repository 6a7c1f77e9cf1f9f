"""Attacks that use decisions only, over an arbitrary decision function."""
