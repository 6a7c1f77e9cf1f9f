"""Check that the logits of an image do not depend on the other images of its batch."""

import torch
from torch import Tensor, nn

from models.checking.locating import Location, first_difference
from models.checking.passes import logits_of, relative_difference, unexplained_difference
from models.checking.result import CheckResult
from models.errors import NetworkError

__all__ = ["check_batch_independence"]

_NAME = "independent of the batch"
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_batch_independence(network: nn.Module, images: Tensor) -> CheckResult:
    """Compare the logits of images in different batches; the network has to be deterministic.

    Args:
        network: images to logits ``(B, K)``.
        images: ``(B, 3, H, W)`` in [0, 1], at least two, which differ.
    """
    batches = _batches(len(images))
    measured: list[dict[str, float]] = []  # of the network, then of its copies

    def compare(network: nn.Module) -> float:
        whole = logits_of(network, images)
        measured.append(
            {name: relative_difference(whole[rows], logits_of(network, images[rows])) for name, rows in batches.items()}
        )
        return max(measured[-1].values())

    try:
        difference = unexplained_difference(network, compare)
    except NetworkError as exc:
        return _failure(network, images, f"the network fails for some batches of these images ({exc.__cause__})", None)
    if not difference:
        return CheckResult(_NAME, "pass", f"the logits are the same {', '.join(batches)}")
    name = max(measured[0], key=measured[0].__getitem__)
    fault = (
        f"the logits of an image depend on the rest of its batch: {name}, they differ by {difference:.2g} of the "
        "largest"
    )
    return _failure(network, images, fault, difference)


def _failure(network: nn.Module, images: Tensor, fault: str, difference: float | None) -> CheckResult:
    place = first_difference(network, images[:3], torch.cat([images[:1], images[1:3].flip(0, 1, 2, 3)]))
    if place is None and difference is not None:
        place = first_difference(network, images[:3], images[:1])
    cause = "" if place is None else f", because of {_described(place)}"
    values = {"difference": difference, "module": None if place is None else place.module}
    return CheckResult(_NAME, "fail", f"{fault}{cause}; {_remedy(place)}", values)


def _batches(count: int) -> dict[str, Tensor]:
    rows = torch.arange(count)
    return {
        "alone": rows[:1],
        "in a smaller batch": rows[: max(2, count // 2)],
        "in another order": rows.flip(0),
        "among copies": rows[:1].repeat(count),
    }


def _described(place: Location) -> str:
    if isinstance(place.layer, _BATCH_NORMS) and place.layer.running_mean is None:
        return f"{place.module} ({place.kind} without running statistics)"
    return str(place)


def _remedy(place: Location | None) -> str:
    if place is not None and place.training:
        return "do not call train() in forward"
    if place is not None and isinstance(place.layer, _BATCH_NORMS):
        return "use track_running_stats=True and train it, or use GroupNorm or LayerNorm"
    return "compute each image's logits from that image alone"
