"""The two-dimensional experiment of the thesis: how trained networks move the points of two circles."""
