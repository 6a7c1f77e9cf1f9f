"""Evaluate against attackers who know the detector."""
