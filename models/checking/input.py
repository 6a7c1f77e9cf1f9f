"""Check of the values that a network gets after the normalisation."""

import torch
from torch import Tensor

from models.checking.result import CheckResult
from models.normalization import Normalized

__all__ = ["check_input"]

_NARROW = 0.1  # width of the range of normalised values


def check_input(network: Normalized) -> CheckResult:
    """State the range of the normalised values, and the precision of the weights."""
    low, high = _range(network.mean.double(), network.std.double())
    precision = sorted({str(each.dtype).removeprefix("torch.") for each in network.parameters()})
    values = {"low": low, "high": high, "precision": precision}
    message = f"pixels in [0, 1] become values from {low:.3g} to {high:.3g}; weights in {' and '.join(precision)}"
    if high - low < _NARROW:
        hint = "give --mean and --std for pixels in [0, 1]: divide those for pixels from 0 to 255 by 255"
        return CheckResult("input", "warning", f"{message}; {hint}", values)
    return CheckResult("input", "pass", message, values)


def _range(mean: Tensor, std: Tensor) -> tuple[float, float]:
    ends = torch.stack([(0 - mean) / std, (1 - mean) / std])
    return float(ends.min()), float(ends.max())
