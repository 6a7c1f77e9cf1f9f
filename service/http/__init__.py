"""The HTTP endpoint: everything between a socket and `detector.pipeline.Pipeline`."""
