"""Load a network from a reference, a checkpoint or an artifact."""
