"""Load on `plumbline serve`, and other servers beside it."""
