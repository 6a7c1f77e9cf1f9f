"""Time and memory of attacks, detectors and training steps."""
