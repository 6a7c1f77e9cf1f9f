"""Find the residual branches of a network, and record what they add to the image."""
