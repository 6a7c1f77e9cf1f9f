"""Tables of the calibration watch."""

from benchmarks.tables.cells import Result, percent

__all__ = ["watch_false_alarms", "watch_shifts", "watch_simulated"]


def watch_false_alarms(result: Result) -> list[str]:
    """Share of stationary streams with an alarm, by the number of calibration images."""
    lines = [
        "| calibration images | warning by flags | warning by distribution | page | any of them "
        "| images to a false page at the 99 % quantile of the rate |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["simulated"]:
        shares = [percent(case["alarmed"][test]) for test in ("flags", "distribution", "page", "any")]
        lines.append(f"| {case['calibration']:,} | {' | '.join(shares)} | {case['run_length']:,.0f} |")
    return lines


def watch_simulated(result: Result) -> list[str]:
    """Median delays after the flags have doubled."""
    lines = ["| calibration images | doubled from image | warning | page |", "|---|---|---|---|"]
    for case in result["simulated"]:
        lines += [
            f"| {case['calibration']:,} | {each['start']:,} | {_images(each['warning'])} | {_images(each['page'])} |"
            for each in case["doubled"]
        ]
    return lines


def watch_shifts(result: Result) -> list[str]:
    """Median delays after real shifts."""
    lines = ["| images | shift | level | flagged | warning | page |", "|---|---|---|---|---|---|"]
    for case in result["real"]:
        lines += [
            f"| {case['network']} | {each['shift']} | {each['level'] or '–'} | {percent(each['flagged'])} | "
            f"{_images(each['warning'])} | {_images(each['page'])} |"
            for each in case["shifts"]
        ]
    return lines


def _images(delay: float | None) -> str:
    return "–" if delay is None else f"{delay:,.0f}"
