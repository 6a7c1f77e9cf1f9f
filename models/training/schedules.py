"""Learning-rate schedules."""

import numpy as np

from models.training.recipe import Recipe

__all__ = ["learning_rate"]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate at `step`, counted from the start of training with `steps` per epoch."""
    return recipe.learning_rate * _share_of_peak(recipe, step, steps)


def _share_of_peak(recipe: Recipe, step: int, steps: int) -> float:
    progress = step / (steps * recipe.epochs)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step" and recipe.milestones:
        return recipe.decay ** sum(step >= epoch * steps for epoch in recipe.milestones)
    if recipe.schedule == "step":
        return recipe.decay ** sum(progress >= milestone for milestone in (0.5, 0.75, 250 / 300))
    warm = 0.2 if recipe.schedule == "one_cycle" else 0.0
    if progress < warm:
        return 0.04 + 0.96 * progress / warm
    return float(0.5 * (1 + np.cos(np.pi * (progress - warm) / (1 - warm))))
