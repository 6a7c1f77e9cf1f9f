"""Adaptive attacks: an image has to fool the network and to pass the detector.

The detector is given as callables (`Decide`, `Forward`), so this package does not depend on detectors.
"""
