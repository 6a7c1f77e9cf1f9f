"""Weights of the transport cost of each module in module-wise training (the thesis, sections 4.2 and 4.4.3)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["CostWeights"]


class CostWeights:
    """The weight of each module's cost: from τ, or from a multiplier λ that grows with the module's loss.

    Args:
        modules: K.
        tau: τ; the weight is 1/(2τ) in the first half of the modules and 1/(4τ) in the second. None for multipliers.
        initial: λ at the start; the weight is 1/λ.
        increase, update_every: h and s of equation 33.
    """

    def __init__(
        self, modules: int, *, tau: float | None, initial: float | None, increase: float, update_every: int
    ) -> None:
        self._modules, self._tau = modules, tau
        self._increase, self._update_every = increase, update_every
        self._multipliers = [initial or 0.0] * modules
        self._batches = [0] * modules

    def weight(self, number: int, loss: Tensor) -> float | Tensor:
        """The weight of the module of that number, from 0, for a batch with this loss of the module, a scalar."""
        if self._tau is not None:
            return 1 / (2 * self._tau) if 2 * number < self._modules else 1 / (4 * self._tau)
        return 1 / self._multiplier(number, loss)

    def after_step(self, losses: Sequence[float | None]) -> None:
        """Keep the multipliers of the batch with these losses; None for modules that were not trained."""
        for number, loss in enumerate(losses):
            if loss is not None:
                self._multipliers[number] = float(self._multiplier(number, loss))
                self._batches[number] += 1

    def _multiplier(self, number: int, loss: float | Tensor) -> float | Tensor:
        """λ_{k,i+1} = λ_{k,i} + h L_k(θ_{k,i+1}, x_{i+1}) (equation 33), where s batches ended before this one."""
        due = self._batches[number] > 0 and self._batches[number] % self._update_every == 0
        return self._multipliers[number] + (self._increase * loss if due else 0.0)

    def state(self) -> dict[str, Any]:
        """JSON values for `load_state`."""
        return {"weights": list(self._multipliers), "batches": list(self._batches)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the multipliers."""
        self._multipliers = [float(weight) for weight in state["weights"]]
        self._batches = [int(count) for count in state["batches"]]
