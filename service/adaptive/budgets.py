"""Budgets of adaptive attacks, and the distances at which their results are counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import InputError
from models.options import check_count, check_number

__all__ = ["MIN_QUERIES", "Budgets"]

MIN_QUERIES = 100


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Budgets of all adaptive attacks; by default the thesis's 50 iterations and 10,000 evaluations (5.4.5).

    Args:
        carlini_wagner: options of the first attack, on the network alone.
        iterations: of HopSkipJump.
        evaluations: maximum number of queries for one gradient estimate of HopSkipJump, ART's `max_eval`.
        first_evaluations: number of queries for the first estimate.
        queries: maximum number of queries for one image in one run of HopSkipJump; None: limited by iterations and
            evaluations only, about 25,000 by default.
        around: the image that `black_box` approaches: "attacked", the detected adversarial image as in the thesis
            (distances from the natural image are then measured, not minimised), or "original".
        matching_steps: steps of Adam for each weight c₁ of equation 42.
        matching_weights: values of c₁.
        matching_distance: c₂.
        matching_loss: L, "cross_entropy" as in the thesis or "margin".
        epsilons: L∞ budgets of selective and orthogonal descent.
        descent_steps, descent_restarts: of each descent. At least 4 steps, since a check runs a quarter of them.
        surrogate_images: maximum number of images to fit the surrogate on.
        surrogate_rounds: number of times that the surrogate is attacked and fitted again with the iterates.
        l2_limits, linf_limits: distances from the original within which evaded images are counted.

    Raises:
        InputError: a count or a number out of range.
    """

    carlini_wagner: Mapping[str, Any] = field(default_factory=dict)
    iterations: int = 50
    evaluations: int = 10_000
    first_evaluations: int = 100
    queries: int | None = None
    around: Literal["attacked", "original"] = "attacked"
    matching_steps: int = 100
    matching_weights: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    matching_distance: float = 0.1
    matching_loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    epsilons: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255, 16 / 255)
    descent_steps: int = 100
    descent_restarts: int = 2
    surrogate_images: int = 500
    surrogate_rounds: int = 2
    l2_limits: tuple[float, ...] = (0.5, 1.0, 2.0)
    linf_limits: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255, 16 / 255)

    def __post_init__(self) -> None:
        for name in ("iterations", "first_evaluations", "matching_steps", "descent_restarts", "surrogate_images"):
            check_count(name, getattr(self, name))
        check_count("surrogate_rounds", self.surrogate_rounds, least=0)
        check_count("evaluations", self.evaluations, least=2)
        check_count("descent_steps", self.descent_steps, least=4)
        if self.queries is not None:  # fewer are used up by the first search for the boundary
            check_count("queries", self.queries, least=MIN_QUERIES)
        for name in ("matching_weights", "epsilons", "l2_limits", "linf_limits"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; give at least one number")
            for value in getattr(self, name):
                check_number(name, value, above=0)
        if self.around not in ("attacked", "original"):
            raise InputError(f"expected around 'attacked' or 'original', got {self.around!r}")
        if any(epsilon > 1 for epsilon in self.epsilons) or list(self.epsilons) != sorted(set(self.epsilons)):
            raise InputError(f"expected rising epsilons in pixel units of [0, 1], got {self.epsilons}")

    @classmethod
    def small(cls) -> "Budgets":
        """Budgets with which all attacks take seconds on a small network, for tests and demonstrations."""
        return cls(
            carlini_wagner={"steps": 20, "search_steps": 2, "initial_const": 1.0},
            iterations=3,
            evaluations=60,
            first_evaluations=20,
            matching_steps=15,
            matching_weights=(1.0, 10.0),
            epsilons=(8 / 255, 32 / 255),
            descent_steps=12,
            descent_restarts=1,
            surrogate_images=64,
            surrogate_rounds=1,
        )
