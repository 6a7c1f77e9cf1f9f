"""Check that the residual branches are found and recorded, with hooks and in the rewritten graph."""

from typing import Any

import torch
from torch import Tensor, nn

from models.checking.result import CheckResult
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec, WithStatistics, discover, evaluation_mode, record_residues

__all__ = ["check_branches"]

_NAME = "residual branches"


def check_branches(network: nn.Module, images: Tensor) -> CheckResult:
    """Find the branches, record a pass of the images, and compare its shapes with those of the discovery.

    Args:
        network: images to logits.
        images: ``(B, 3, H, W)`` in [0, 1].

    Raises:
        NetworkError: no branch is found, or one is not reached as at discovery.
    """
    _, channels, height, width = images.shape
    discovery = discover(network, (channels, height, width))
    with record_residues(network, discovery, keep=True) as recording, evaluation_mode(network), torch.no_grad():
        network(images)
    shapes = [tuple(residue.shape[1:]) for residue in recording.residues]
    graph = WithStatistics(network, discovery, statistics_spec=StatisticsSpec(), image_shape=(channels, height, width))
    values = {**_as_json(network, discovery), "why_not_rewritten": graph.why_not_rewritten}
    for branch, shape in zip(discovery.branches, shapes, strict=True):
        if shape != branch.shape:
            message = (
                f"{branch.name} has a residue of the shape {shape}, but {branch.shape} at discovery; its shape must "
                "not depend on the image"
            )
            return CheckResult(_NAME, "fail", message, values)
    if not bool(torch.isfinite(recording.statistics).all()):
        message = "statistics of the residues are not finite; check the weights and the precision"
        return CheckResult(_NAME, "fail", message, values)
    return CheckResult(_NAME, "pass", _summary(discovery, graph.why_not_rewritten), values)


def _as_json(network: nn.Module, discovery: Discovery) -> dict[str, Any]:
    prefix = "network." if isinstance(network, Normalized) else ""  # names as in the user's own network
    branches, skipped = discovery.branches, discovery.skipped_branches
    return {
        "branches": [
            {"name": each.name.removeprefix(prefix), "shape": list(each.shape), "kind": each.kind} for each in branches
        ],
        "skipped": [{"name": each.name.removeprefix(prefix), "why": each.why} for each in skipped],
    }


def _summary(discovery: Discovery, why_not: str | None) -> str:
    kinds = "" if discovery.branches[0].kind == "addition" else " (differences of layers, without additions)"
    skipped = f", {len(discovery.skipped_branches)} candidates skipped" if discovery.skipped_branches else ""
    how = "by hooks and by the rewritten graph alike" if why_not is None else f"by hooks only ({why_not})"
    return f"{len(discovery.branches)} found{kinds}{skipped}; recorded {how}"
