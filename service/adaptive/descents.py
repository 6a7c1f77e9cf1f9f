"""Selective and orthogonal descent on the detector's margin, exact where it has a gradient, else by a surrogate."""

import functools
import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attacks.adaptive.descent import descend
from attacks.adaptive.result import AdaptiveResult
from attacks.adaptive.surrogate import Surrogate
from service.adaptive.agreement import Agreement
from service.adaptive.caching import AdaptiveCache
from service.adaptive.context import AttackContext, AttackRun
from service.adaptive.surrogate import fitted_surrogate, surrogate_inputs

__all__ = ["DescentKind", "Descents"]

DescentKind = Literal["selective", "orthogonal"]

_log = logging.getLogger(__name__)


class Descents:
    """Both descents of one context, with the surrogate that they share."""

    def __init__(self, context: AttackContext, cache: AdaptiveCache) -> None:
        self._context, self._cache = context, cache

    @property
    def exact(self) -> bool:
        """Whether the descents differentiate the score itself."""
        return self._context.system.exact_margins is not None

    @functools.cached_property
    def surrogate(self) -> tuple[Surrogate, Agreement]:
        """The surrogate, and its agreement with the detector on originals that it was not fitted on."""
        context = self._context
        store = self._cache.store("surrogate", np.arange(len(context.images)), {})
        cached = None if store is None else store.load_intact(0)
        if cached is not None:
            agreement = Agreement.from_array(cached.pop("agreement"))
            weights = {name: context.tensor(values) for name, values in cached.items()}
            return Surrogate.from_arrays(weights), agreement
        if context.progress:
            _log.info("fitting a differentiable surrogate of the detector")
        surrogate, agreement = fitted_surrogate(
            context.system, context.images, context.fooled, context.labels, context.budgets, context.settings.seed
        )
        if store is not None:
            store.save(0, _weights(surrogate) | {"agreement": agreement.to_array()})
        return surrogate, agreement

    def weights(self) -> dict[str, NDArray[np.float32]] | None:
        """Weights of the surrogate, for cache keys; None if the margins are exact."""
        return None if self.exact else _weights(self.surrogate[0])

    def run(self, kind: DescentKind, epsilon: float, steps: int) -> AttackRun:
        """The descent within one L∞ budget.

        Args:
            kind: which of both descents.
            epsilon: L∞ budget.
            steps: of each run.
        """
        context = self._context

        def descent(rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
            labels = context.labels[rows]
            result = descend(
                self._margins,
                context.decide(lambda predicted, which: predicted != labels[which]),
                context.images[rows],
                labels,
                kind=kind,
                epsilon=epsilon,
                steps=steps,
                restarts=context.budgets.descent_restarts,
                seed=seed,
                batch_size=context.system.gradient_batch,
            )
            return result, {}

        return descent

    def _margins(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and margins, both differentiable."""
        logits, parts = self._context.system.forward(points)
        exact_margins = self._context.system.exact_margins
        if exact_margins is not None:
            return logits, exact_margins(parts)
        return logits, self.surrogate[0](surrogate_inputs(parts))


def _weights(surrogate: Surrogate) -> dict[str, NDArray[np.float32]]:
    return {name: values.cpu().numpy() for name, values in surrogate.state_dict().items()}
