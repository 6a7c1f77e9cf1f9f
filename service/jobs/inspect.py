"""`plumbline inspect`: the residual branches of a network, and the candidates that are skipped."""

from dataclasses import dataclass
from typing import Any

from models.loading import load_network
from models.residuals import Discovery, discover
from service.requests.inspection import InspectRequest

__all__ = ["Inspection", "inspect_network"]


@dataclass(frozen=True)
class Inspection:
    """The branches of a network, in execution order.

    Args:
        reference: of the network.
        discovery: its branches.
    """

    reference: str
    discovery: Discovery

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """JSON values: branches and skipped candidates; `left_out` is the former name of `skipped`."""
        skipped = [{"name": each.name, "why": each.why} for each in self.discovery.skipped_branches]
        branches = [{"name": b.name, "shape": list(b.shape), "kind": b.kind} for b in self.discovery.branches]
        return {"branches": branches, "skipped": skipped, "left_out": skipped}

    def as_table(self) -> str:
        """A table for people."""
        branches = [(b.name, "×".join(map(str, b.shape)), b.kind) for b in self.discovery.branches]
        rows = [("name", "shape", "kind"), *branches]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{len(branches)} residual branches in {self.reference}, in execution order", ""]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if self.discovery.skipped_branches:
            lines += ["", f"skipped: {len(self.discovery.skipped_branches)}"]
            lines += [f"  {each.name}: {each.why}" for each in self.discovery.skipped_branches]
        return "\n".join(lines)


def inspect_network(request: InspectRequest) -> Inspection:
    """The branches that are found in the requested network.

    Raises:
        InputError: a reference that cannot be loaded.
        NetworkError: a network without branches.
    """
    shape = (3, *request.image_size) if request.image_size else None
    given = request.normalization
    loaded = load_network(request.network, mean=given.mean, std=given.std, image_shape=shape)
    # Discover inside the normalisation, so that the names are those of the user's own network.
    shape = loaded.network.inner_shape(loaded.spec.image_shape)
    return Inspection(request.network, discover(loaded.network.network, shape, request.blocks))
