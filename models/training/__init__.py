"""Train a network: recipe, loop, initialisation."""
