"""Run a plan: extract features of every set of images, fit detectors, and score the test images of every run."""
