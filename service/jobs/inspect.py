"""`plumbline inspect`: which residual branches are found in a network, and what is left out and why."""

import json
from argparse import Namespace

from models.loading import load_network
from models.residuals import Discovery, discover

__all__ = ["run"]


def run(options: Namespace) -> None:
    """Print the branches of `options.network` in execution order, as a table or as JSON."""
    shape = (3, *options.image_size) if options.image_size else None
    loaded = load_network(options.network, image_shape=shape)
    # The module inside the normalisation, so that the names are those of the user's own network.
    discovery = discover(loaded.network.network, loaded.spec.image_shape)
    print(json.dumps(_as_json(discovery), indent=2) if options.json else _as_table(discovery, options.network))


def _as_json(discovery: Discovery) -> dict[str, list[dict[str, object]]]:
    return {
        "branches": [{"name": b.name, "shape": list(b.shape), "kind": b.kind} for b in discovery.branches],
        "left_out": [{"name": left.name, "why": left.why} for left in discovery.skipped_branches],
    }


def _as_table(discovery: Discovery, reference: str) -> str:
    branches = [(b.name, "×".join(map(str, b.shape)), b.kind) for b in discovery.branches]
    widths = [max(len(row[column]) for row in [*branches, ("name", "shape", "kind")]) for column in range(3)]
    lines = [f"{len(branches)} residual branches in {reference}, in execution order", ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [("name", "shape", "kind"), *branches]
    ]
    if discovery.skipped_branches:
        lines += ["", f"left out: {len(discovery.skipped_branches)}"]
        lines += [f"  {left.name}: {left.why}" for left in discovery.skipped_branches]
    return "\n".join(lines)
