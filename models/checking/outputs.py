"""Checks of a network's outputs: finite, and logits rather than probabilities."""

import torch
from torch import Tensor

from models.checking.result import CheckResult

__all__ = ["check_logits"]

_NAME = "logits"


def check_logits(logits: Tensor) -> CheckResult:
    """Check that outputs ``(B, K)`` of several images are finite, and are not probabilities.

    The range of probabilities is too narrow for components and attacks that use logits.
    """
    values = {"images": len(logits), "outputs": logits.shape[1], "dtype": str(logits.dtype).removeprefix("torch.")}
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        message = f"NaN or infinity for {bad} of {len(logits)} images; check the weights, the precision, mean and std"
        return CheckResult(_NAME, "fail", message, values)
    # Sums of rounded probabilities differ from one by a few units in the last place.
    tolerance = 1e-4 if torch.finfo(logits.dtype).eps < 1e-4 else 2e-2
    exact = logits.double()
    in_range = bool((exact >= 0).all()) and bool((exact <= 1 + tolerance).all())
    if in_range and _all_near(exact.sum(1), 1.0, tolerance):
        return CheckResult(_NAME, "fail", _probabilities("probabilities", "softmax"), values)
    if bool((exact <= tolerance).all()) and _all_near(exact.logsumexp(1), 0.0, tolerance):
        return CheckResult(_NAME, "fail", _probabilities("log-probabilities", "log_softmax"), values)
    if len(exact) > 1 and bool((exact == exact[0]).all()):
        message = "all images have the same logits, so the other checks are inconclusive; check the weights of the head"
        return CheckResult(_NAME, "warning", message, values)
    if in_range and logits.shape[1] > 2:
        message = "every output lies in [0, 1], as after a sigmoid; if so, return the values before it"
        return CheckResult(_NAME, "warning", message, values)
    return CheckResult(_NAME, "pass", f"{logits.shape[1]} finite outputs per image, not probabilities", values)


def _all_near(values: Tensor, value: float, tolerance: float) -> bool:
    return bool(((values - value).abs() <= tolerance).all())


def _probabilities(kind: str, function: str) -> str:
    return f"the network returns {kind}; return logits, by leaving {function} out of the network"
