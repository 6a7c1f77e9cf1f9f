"""Find the residual branches of a network in its trace."""
