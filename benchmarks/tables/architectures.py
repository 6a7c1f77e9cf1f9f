"""Table of public architectures that `plumbline check` was run on."""

from benchmarks.tables.cells import Result

__all__ = ["architectures"]

_KINDS = {"addition": "", "block_difference": " (differences of layers)"}


def architectures(result: Result) -> list[str]:
    """A row per network: its checks, its branches, how they are recorded, and memory per image."""
    lines = [
        "| network | failed checks | branches | recorded by | MB per image, forward / with gradient |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        failed = [name for name in row["statuses"] if row["statuses"][name] == "fail"]
        kind = " and ".join(_KINDS[each] for each in row["kinds"])
        how = "graph" if row["why_not_rewritten"] is None else "hooks"
        memory = " / ".join(_megabytes(row[key]) for key in ("forward_bytes", "gradient_bytes"))
        lines.append(
            f"| {row['network']} | {', '.join(failed) or 'none'} | {row['branches']}{kind} | {how} | {memory} |"
        )
    return lines


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.3g}"
