"""The applications on both ports, and the process that runs them."""
