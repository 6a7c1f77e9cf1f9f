"""Below the application: limits of connections, file descriptors, signals."""
