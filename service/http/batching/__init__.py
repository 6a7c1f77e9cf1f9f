"""Many small requests as few large calls on one thread."""
