"""Distribution of the epochs of sequential module-wise training (the thesis, sections 4.4.2 and 4.5.5)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from models.errors import InputError

__all__ = ["module_of_each_epoch"]


def module_of_each_epoch(epochs: int, modules: int, *, laps: int = 1, growth: float = 0.0) -> tuple[int, ...]:
    """The module, from 0, that each epoch trains: in every lap from the first to the last, at least one epoch each.

    Args:
        epochs: the number of epochs.
        modules: the number of modules.
        laps: how often the sequence of modules is repeated.
        growth: the epochs of module k are in proportion to 1 + growth · k.

    Raises:
        InputError: fewer epochs than modules times laps.
    """
    if epochs < modules * laps:
        raise InputError(
            f"expected at least {modules * laps} epochs, one for each of {modules} modules in {laps} "
            f"{'lap' if laps == 1 else 'laps'}, got {epochs}; use more epochs"
        )
    result: list[int] = []
    for length in _shares(epochs, [1.0] * laps):
        counts = _shares(length, [1 + growth * number for number in range(modules)])
        result += [number for number, count in enumerate(counts) for _ in range(count)]
    return tuple(result)


def _shares(total: int, proportions: Sequence[float]) -> list[int]:
    """Integers of at least 1 with that sum, in these proportions as far as rounded running sums allow."""
    sums = list(accumulate(proportions))
    ends = [0]
    for number, end in enumerate(sums, start=1):
        rounded = int(total * end / sums[-1] + 0.5)
        ends.append(min(max(rounded, ends[-1] + 1), total - (len(sums) - number)))
    return [end - start for start, end in pairwise(ends)]
