"""Tables of certified radii."""

from collections.abc import Sequence

from benchmarks.tables.cells import Result, percent

__all__ = ["certified"]


def certified(result: Result, radii: Sequence[str] = ("0", "0.1", "0.25", "0.5")) -> list[str]:
    """Per network, noise and threshold: certain answers, and shares of images at radii.

    Args:
        result: of the benchmark `detection.certificates`.
        radii: L2 distances that are printed.
    """
    lines = [
        "| network | σ | τ | right without noise | no certain answer | right and unchanged within "
        f"{' · '.join(radii)} | right, then unchanged or rejected | right or rejected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in result["systems"]:
        rows = {f"{row['radius']:g}": row for row in each["certified"]}
        cells = [
            " · ".join(percent(rows[radius][key]) for radius in radii)
            for key in ("unchanged", "right_then_rejected", "right_or_rejected")
        ]
        smoothing = each["smoothing"]
        lines.append(
            f"| `{each['network']}` | {smoothing['sigma']:g} | {smoothing['threshold']:g} | "
            f"{percent(each['plain']['right'])} | {percent(each['without_answer'])} | {' | '.join(cells)} |"
        )
    return lines
