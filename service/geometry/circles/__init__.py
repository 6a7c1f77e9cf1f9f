"""The two-dimensional experiment of the thesis: what training makes of two circles of points."""
