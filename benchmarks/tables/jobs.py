"""Tables of long jobs in shards: measured figures, and the calculation for a million images."""

from benchmarks.tables.cells import Result

__all__ = ["large_job", "shard_figures"]


def shard_figures(result: Result) -> list[str]:
    """A row per requirement of shards, with the measured figure."""
    kill, two, overhead = result["kill"], result["throughput"]["two_by_one"], result["overhead"]
    equal = "the same bytes as an undisturbed job" if kill["same_bytes"] else "**other bytes**"
    return [
        "| measured | figure |",
        "|---|---|",
        f"| {kill['killed']} of {kill['workers']} workers killed during {kill['shards']} shards | {equal} |",
        f"| throughput of two workers ÷ one, one thread each ({two['rounds']} rounds) | {two['ratio']:.2f} "
        f"({two['low']:.2f} to {two['high']:.2f}) |",
        f"| overhead of a shard of {overhead['images']:,} images, PGD with {overhead['steps']} steps | "
        f"{overhead['share']:.1%} |".replace("%", " %"),
    ]


def large_job(result: Result) -> list[str]:
    """A row per number of GPUs: minutes of the steps, then total time, cost and bottleneck of both layouts."""
    lines = [
        "| GPUs | attack | write | one sender: decode, send | total | cost | bottleneck "
        "| own files: decode | total | cost | bottleneck |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        minutes, sender, files = row["minutes"], row["one_sender"], row["own_files"]
        lines.append(
            f"| {row['gpus']} | {minutes['attack']:.0f} min | {minutes['write']:.0f} min | {sender['decode']:.0f} min, "
            f"{minutes['send']:.0f} min | {_total(sender)} | {files['decode']:.1f} min | {_total(files)} |"
        )
    return lines


def _total(layout: Result) -> str:
    return f"{layout['minutes']:.0f} min | ${layout['dollars']:.0f} | {layout['bottleneck']}"
