"""The values that a network gets after the normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.checking.result import CheckResult
from models.normalization import Normalized

__all__ = ["check_input"]


def check_input(network: Normalized, notes: Sequence[str] = ()) -> CheckResult:
    """State the range of the normalised values, and how the network was adapted when it was loaded.

    Args:
        network: with its normalisation.
        notes: of `LoadedNetwork`.
    """
    low, high = _range(network.mean.double(), network.std.double())
    message = f"float32 images in [0, 1] become values from {low:.3g} to {high:.3g}"
    return CheckResult("input", "pass", "; ".join([message, *notes]), {"low": low, "high": high, "notes": list(notes)})


def _range(mean: Tensor, std: Tensor) -> tuple[float, float]:
    ends = torch.stack([(0 - mean) / std, (1 - mean) / std])
    return float(ends.min()), float(ends.max())
