"""The connection below the application: protocol limits, descriptors, signals."""
