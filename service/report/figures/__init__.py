"""Figures drawn with matplotlib, and their conversion to inline SVG and PNG."""
