"""The HTTP endpoint: everything between a socket and `detector.verdict.Pipeline`."""
