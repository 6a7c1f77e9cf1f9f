"""How the epochs of a sequential module-wise run are shared out (the thesis, sections 4.4.2 and 4.5.5)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from models.errors import InputError

__all__ = ["module_of_each_epoch"]


def module_of_each_epoch(epochs: int, modules: int, *, laps: int = 1, growth: float = 0.0) -> tuple[int, ...]:
    """Which module, from 0, each epoch trains: in every lap from the first to the last, each for at least one epoch.

    Args:
        growth: module k has epochs in proportion to 1 + growth · k.

    Raises:
        InputError: fewer epochs than modules times laps.
    """
    if epochs < modules * laps:
        raise InputError(
            f"expected at least {modules * laps} epochs, one for each of {modules} modules in {laps} "
            f"{'lap' if laps == 1 else 'laps'}, got {epochs}; give more epochs"
        )
    result: list[int] = []
    for length in _shares(epochs, [1.0] * laps):
        counts = _shares(length, [1 + growth * number for number in range(modules)])
        result += [number for number, count in enumerate(counts) for _ in range(count)]
    return tuple(result)


def _shares(total: int, proportions: Sequence[float]) -> list[int]:
    """Whole numbers of that sum, in proportion as near as running sums can be rounded, and at least 1 each."""
    sums = list(accumulate(proportions))
    ends = [0]
    for number, end in enumerate(sums, start=1):
        rounded = int(total * end / sums[-1] + 0.5)
        ends.append(min(max(rounded, ends[-1] + 1), total - (len(sums) - number)))
    return [end - start for start, end in pairwise(ends)]
