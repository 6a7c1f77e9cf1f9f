"""Adapters to ART and AutoAttack."""
