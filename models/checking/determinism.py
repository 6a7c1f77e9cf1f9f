"""Check that a network is deterministic in evaluation mode."""

from torch import Tensor, nn

from models.checking.locating import Location, first_difference, random_functions
from models.checking.passes import logits_of, relative_difference, unexplained_difference
from models.checking.result import CheckResult

__all__ = ["check_determinism"]

_NAME = "deterministic"
_PASSES = 3


def check_determinism(network: nn.Module, images: Tensor) -> CheckResult:
    """Compare several passes of the same images in evaluation mode.

    Args:
        network: images to logits ``(B, K)``.
        images: ``(B, 3, H, W)`` in [0, 1].

    Raises:
        NetworkError: a pass fails.
    """

    def compare(network: nn.Module) -> float:
        first, *others = (logits_of(network, images) for _ in range(_PASSES))
        return max(relative_difference(first, other) for other in others)

    difference = unexplained_difference(network, compare)
    if not difference:
        drawn = random_functions(network, images)
        if drawn:
            return CheckResult(
                _NAME,
                "warning",
                f"the logits of the same images agree, but random numbers are drawn in evaluation mode, by {drawn[0]}; "
                f"{_remedy(drawn[0])}",
            )
        return CheckResult(_NAME, "pass", f"{_PASSES} passes of the same images agree")
    # A rare event may not happen again at once.
    attempts = (first_difference(network, images) for _ in range(_PASSES))
    place = next((found for found in attempts if found is not None), None)
    return CheckResult(
        _NAME,
        "fail",
        f"the network is random in evaluation mode: the logits of the same images differ by {difference:.2g} of the "
        f"largest between passes{'' if place is None else f', because of {place}'}; {_remedy(place)}",
        {"difference": difference, "module": None if place is None else place.module,
         "functions": [] if place is None else list(place.functions)},
    )  # fmt: skip


def _remedy(place: Location | None) -> str:
    if place is not None and place.training:
        return "do not call train() in forward"
    if place is not None and any("dropout" in name for name in place.functions):
        return "pass training=self.training to it"
    return "draw no random numbers if self.training is False"
