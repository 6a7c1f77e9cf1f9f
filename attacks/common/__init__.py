"""Shared parts of attacks: contract, norms, steps, targets."""
