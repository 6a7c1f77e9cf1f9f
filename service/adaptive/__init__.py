"""Evaluation of adaptive attacks, by attackers who know the detector."""
