"""Markdown tables of the committed results."""
