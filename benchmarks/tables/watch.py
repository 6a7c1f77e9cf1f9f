"""Tables of the calibration watch, and of the cost of monitoring."""

from benchmarks.tables.cells import Result, percent, ratio

__all__ = ["query_cost", "watch_cost", "watch_false_alarms", "watch_shifts", "watch_simulated", "watch_steps"]


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


def watch_steps(result: Result) -> list[str]:
    """The steps from a change of the images to a new threshold, an attack and two restarts."""
    before, changed, after = result["before"], result["changed"], result["after"]
    tests = {"flags": "warning by flags", "distribution": "warning by distribution", "page": "page"}
    alarms = ", ".join(
        f"{name} after {changed['alarm_after'][test]:,} images"
        for test, name in tests.items()
        if test in changed["alarm_after"]
    )
    reviews = ", ".join(f"{count:,} × {decision.replace('_', ' ')}" for decision, count in result["reviews"].items())
    steps = {
        "natural images": f"{percent(before['flagged'] / before['images'])} of {before['images']:,} flagged; "
        f"watch: {before['level']}",
        "blurred images, some of them noise": alarms,
        "review of the random sample": reviews,
        "`plumbline calibrate --from-reviews`": f"{result['calibrated_on']:,} images",
        "SIGHUP while images are sent": f"no response lost; {after['by_previous_version']:,} images by the previous "
        f"version, {after['images'] + after.get('repeated', 0):,} by the new one",
        "blurred images, new version": f"{percent(after['rate'])} flagged, expected "
        f"{percent(after['expected'][0])} to {percent(after['expected'][1])}; watch: {after['level']}",
    }
    rules = [
        f"rule {rule} at image {members:,} of a session"
        for session in result["attack"]["sessions"]
        for rule, members in session["rules"].items()
    ]
    steps[f"HopSkipJump over HTTP, {result['attack']['queries']:,} queries"] = ", ".join(rules) or "not recognised"
    for name, step in (("restarted", "restart"), ("killed", "`kill -9` and restart")):
        steps[step] = f"{result[name]['stored']:,} of {result[name]['verdicts']:,} verdicts in the store"
    times = result["store_us"]
    steps["processor time of the store per image"] = (
        f"{times['request']:.1f} µs in the request, {times['thread']:.0f} µs in the thread"
    )
    return ["| step | result |", "|---|---|", *(f"| {step} | {text} |" for step, text in steps.items())]


def query_cost(result: Result) -> list[str]:
    """Processor time of a query in the recognition of query attacks, and bytes per record."""
    lines = [
        "| image | descriptor, sketch and digest | new picture | member of a session | bytes of a record |",
        "|---|---|---|---|---|",
    ]
    for side, each in result["sides"].items():
        times = " | ".join(f"{each[name]:.0f} µs" for name in ("query", "new", "member"))
        lines.append(f"| {side} × {side} | {times} | {each['bytes']:.0f} |")
    return lines


def watch_cost(result: Result) -> list[str]:
    """Throughput, latency and processor time without and with monitoring; quartiles of the ratios in brackets."""
    names = {"off": "none", "sessions": "query attacks", "all": "query attacks, store, kept images, random sample"}
    lines = [
        "| clients at a time | monitoring | requests per second | ratio | 99 % of the latencies "
        "| processor time per request | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for clients, servers in result["clients"].items():
        for name, each in servers.items():
            lines.append(
                f"| {clients} | {names[name]} | {each['per_second']:.0f} | {ratio(each['throughput'], 3)} | "
                f"{each['p99_ms']:.1f} ms | {each['cpu_ms']:.2f} ms | {ratio(each['processor_time'], 3)} |"
            )
    return lines


def _images(delay: float | None) -> str:
    return "–" if delay is None else f"{delay:,.0f}"
