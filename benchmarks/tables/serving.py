"""Tables of the server under load, under faults and on hostile input."""

from collections.abc import Mapping

from benchmarks.tables.cells import Result

__all__ = [
    "bars",
    "beside_litserve",
    "engines",
    "faults",
    "hostile_input",
    "latency",
    "lost_requests",
    "served_throughput",
    "split",
]

_MET = {True: "met", False: "**missed**"}


def bars(results: Mapping[str, Result]) -> list[str]:
    """A row per requirement: its bound, the measured figure, and whether the figure meets the bound."""
    serving, overload, soak = results["serving"], results["overload"], results["soak"]
    raw, files, all_cores = serving["raw_batches"], serving["agreement"], results["serving_all_cores"]
    rows = [
        (
            "served ÷ bare throughput, pixels in batches of " + ", ".join(raw),
            "≥ 0.95",
            ", ".join(_range(each["ratio"], each["low"], each["high"]) for each in raw.values()),
            all(each["ratio"] >= 0.95 for each in raw.values()),
        ),
        *(
            (
                f"one PNG per request{with_threads}, throughput ÷ that of plain FastAPI without batches",
                "≥ 2",
                _range(each["times_as_fast"], each["low"], each["high"]),
                each["times_as_fast"] >= 2,
            )
            for with_threads, result in (("", serving), (", two torch threads on both sides", all_cores))
            for each in [result["others"]["fastapi"]]
        ),
        (
            "added latency of one client",
            "≤ 3 ms",
            f"{serving['added_latency_ms']:.2f} ms",
            serving["added_latency_ms"] <= 3,
        ),
        (
            f"overload of {overload['offered_times_capacity']:.1f} × capacity: served share of the capacity",
            "≥ 95 %",
            f"{overload['served_share_of_capacity']:.0%}",
            overload["served_share_of_capacity"] >= 0.95,
        ),
        (
            "… refused within (median, 99 % of refusals)",
            "≤ 20 ms",
            f"{overload['refusal_p50_ms']:.1f} ms, {overload['refusal_p99_ms']:.1f} ms",
            overload["refusal_p99_ms"] <= 20,
        ),
        (
            "… memory, before and at most",
            "bounded",
            f"{overload['memory_before_mib']:.0f} MiB, {overload['memory_peak_mib']:.0f} MiB",
            overload["memory_peak_mib"] - overload["memory_before_mib"] < 256,
        ),
        ("… recovery", "< 2 s", f"{overload['recovery_s']:.2f} s", overload["recovery_s"] < 2),
        (
            f"soak of {soak['minutes']:.0f} minutes, {soak['requests']:,} requests: slope of memory after the warm-up",
            "< 1 MiB/h",
            f"{soak['memory_slope_mib_per_hour']:.2f} MiB/h",
            soak["memory_slope_mib_per_hour"] < 1,
        ),
        ("… 5xx", "none", f"{soak['server_errors']}", soak["server_errors"] == 0),
        *_chaos_bars(results["chaos"]),
        *_fuzz_bars(results["fuzz"]),
        (
            f"one image alone or in any batch, {files['images']:,} verdicts: other class or flag, largest Δ of scores",
            "0, ≤ 10⁻⁶",
            f"{files['other_class_or_flag']}, {files['largest_score_difference']:.1g}",
            files["other_class_or_flag"] == 0 and files["largest_score_difference"] <= 1e-6,
        ),
    ]
    lines = ["| what | requirement | measured | |", "|---|---|---|---|"]
    return [*lines, *(f"| {what} | {bar} | {found} | {_MET[met]} |" for what, bar, found, met in rows)]


def served_throughput(result: Result) -> list[str]:
    """Served ÷ bare throughput, by the form in which images are sent."""
    lines = ["| sent as | served ÷ bare | quartiles |", "|---|---|---|"]
    ways = {f"pixels, {size} images per request": each for size, each in result["raw_batches"].items()}
    for name, each in (ways | result["files"]).items():
        lines.append(f"| {name} | {each['ratio']:.2f} | {each['low']:.2f} to {each['high']:.2f} |")
    return lines


def engines(result: Result) -> list[str]:
    """Plumbline with every engine, beside LitServe with the network alone."""
    lines = [
        "| server | requests/s | CPU per request | median latency of one client | ready after | resident memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in result["servers"].items():
        lines.append(
            f"| {name} | {each['per_second']:.0f} | {each['processor_ms']:.2f} ms | {each['p50_ms']:.1f} ms | "
            f"{each['ready_s']:.1f} s | {each['resident_mib']:,.0f} MiB |"
        )
    return lines


def beside_litserve(result: Result) -> list[str]:
    """Throughput of Plumbline ÷ throughput of LitServe."""
    lines = [
        "| detector | engine | precision | beside | ratio (quartiles) | requirement |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| `{each['detector']}` | {each['engine']} | {each['precision']} | {each['beside']} | "
        f"{_range(each['ratio'], each['low'], each['high'])} | ≥ {each['bar']:g} |"
        for each in result["ratios"]
    ]


def latency(result: Result) -> list[str]:
    """Latency of one PNG file, by number of concurrent clients."""
    lines = ["| clients at a time | median | 90 % | 99 % |", "|---|---|---|---|"]
    for clients, each in result["latency_ms"].items():
        lines.append(f"| {clients} | {each['p50']:.1f} ms | {each['p90']:.1f} ms | {each['p99']:.1f} ms |")
    return lines


def split(result: Result) -> list[str]:
    """Processor time of the server per request, by thread, and the bound on the gain of a second process."""
    lines = [
        "| clients at a time | event loop | inference | other threads | 1 + loop ÷ inference |",
        "|---|---|---|---|---|",
    ]
    for clients, each in result["clients"].items():
        times = " | ".join(f"{each[name]:.2f} ms" for name in ("loop", "inference", "others"))
        lines.append(f"| {clients} | {times} | {each['bound']:.2f} |")
    return lines


def faults(result: Result) -> list[str]:
    """A row per fault: time until the server detected it, and other counts."""
    lines = ["| fault | observed | wrong answers and other problems |", "|---|---|---|"]
    for each in result["scenarios"]:
        figures = ", ".join(_figure(name, value) for name, value in each["figures"].items())
        lines.append(f"| {each['scenario']} | {figures} | {len(each['problems'])} |")
    return lines


def hostile_input(result: Result) -> list[str]:
    """A row per kind of hostile input: cases, problems and growth of memory."""
    lines = ["| part | cases | problems | memory grown |", "|---|---|---|---|"]
    for each in result["parts"]:
        grown = each["counts"]["resident bytes grown"] / 2**20
        lines.append(f"| {each['part']} | {each['cases']:,} | {len(each['problems'])} | {grown:.1f} MiB |")
    return lines


def lost_requests(result: Result) -> list[str]:
    """A row per fault under Ray Serve: requests that were lost, and the time until two replicas run again."""
    kills = result["killed"]
    rows = [(f"replica killed, kill {number} of {len(kills)}", trial) for number, trial in enumerate(kills, start=1)]
    rows += [("a replica's network hangs", result["hangs"]), ("another artifact is deployed", result["replaced"])]
    lines = [
        "| event | requests | in flight at the time | lost, by status | of these, begun later | lost twice | wrong | "
        "over after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for event, trial in rows:
        lost = ", ".join(f"{number} × {status}" for status, number in trial["lost_statuses"].items()) or "0"
        lines.append(
            f"| {event} | {trial['requests']:,} | {trial['under_way_at_the_time']} | {lost} | "
            f"{trial['lost_that_began_later']} | {trial['lost_again']} | {trial['wrong_verdicts']} | "
            f"{trial['two_replicas_again_s']:.0f} s |"
        )
    return lines


def _chaos_bars(result: Result) -> list[tuple[str, str, str, bool]]:
    scenarios = result["scenarios"]
    slowest = max(each["figures"].get("not_ready_after_s", 0.0) for each in scenarios)
    problems = sum(len(each["problems"]) for each in scenarios)
    return [
        (f"chaos, {len(scenarios)} faults: readiness false after, at most", "≤ 1 s", f"{slowest:.2f} s", slowest <= 1),
        ("… wrong answers, requests lost on SIGTERM and other problems", "none", f"{problems}", problems == 0),
    ]


def _fuzz_bars(result: Result) -> list[tuple[str, str, str, bool]]:
    problems = sum(len(each["problems"]) for each in result["parts"])
    what = f"schemathesis, raw sockets and broken images, {result['n']:,} cases: 5xx, growth and other problems"
    return [(what, "none", f"{problems}", problems == 0)]


def _range(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} [{low:.2f} to {high:.2f}]"


def _figure(name: str, value: float) -> str:
    words = name.replace("_", " ")
    if name.endswith("_s"):
        return f"{words[:-2]} {value:.2f} s"
    if name.endswith("_bytes"):
        return f"{words[:-6]} {value / 2**20:.1f} MiB"
    return f"{words} {value:,}"
