"""Look-ups in an evaluation and its figures: what is drawn, what stands beside what, and as which text."""
