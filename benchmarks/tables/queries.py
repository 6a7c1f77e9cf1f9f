"""Tables of query attacks."""

from typing import Any

from benchmarks.tables.cells import Result, percent

__all__ = ["query_alarms", "query_evasion", "query_false_alarms", "query_found", "query_lineage"]


def query_found(result: Result) -> list[str]:
    """Attacks that were recognised, and whether before their success."""
    lines = [
        "| attack | recognised, of those with 64 queries | query of the alarm, median (90 % quantile) | successes "
        "| alarm first, of all successes | alarm first, of successes after query 63 | rules |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in result["attacks"]:
        alarm = "–" if case["median"] is None else f"{case['median']:.0f} ({case['p90']:.0f})"
        rules = " ".join(rule for rule, count in case["rules"].items() if count)
        lines.append(
            f"| {case['attack']} | {_share(case['found'])} | {alarm} | {case['successes']} of {case['images']} | "
            f"{_count(case['first'])} | {_count(case['first_late'])} | {rules} |"
        )
    return lines


def query_evasion(result: Result) -> list[str]:
    """Attacks that were recognised in spite of an evasion; a line per evasion."""
    attacks = list(dict.fromkeys(case["attack"] for case in result["evasion"]))
    cells = {(case["variant"], case["attack"]): case for case in result["evasion"]}
    lines = [f"| sent | {' | '.join(attacks)} |", "|" + "---|" * (1 + len(attacks))]
    for variant in dict.fromkeys(case["variant"] for case in result["evasion"]):
        found = [_evaded(cells.get((variant, attack))) for attack in attacks]
        lines.append(f"| {'no evasion' if variant == 'none' else variant} | {' | '.join(found)} |")
    return lines


def query_false_alarms(result: Result) -> list[str]:
    """Harmless streams with an alarm, by kind."""
    lines = ["| stream | 32 similar queries | alarms, ordinary picture | alarms, hard picture |", "|---|---|---|---|"]
    for case in result["benign"]:
        cells = [_alarms(case[group]) for group in ("ordinary", "hard")]
        lines.append(f"| {case['kind'].replace('_', ' ')} | {_count(case['similar'])} | {' | '.join(cells)} |")
    return lines


def query_alarms(result: Result) -> list[str]:
    """Harmless streams with an alarm, all kinds together, with intervals."""
    totals, photos = result["totals"], result["photos"]
    return [
        "| streams | with an alarm |",
        "|---|---|",
        f"| variants of an ordinary picture | {_share(totals['ordinary'])} |",
        f"| variants of a hard picture | {_share(totals['hard'])} |",
        f"| unrelated pictures | {_share(totals['unrelated'])} |",
        f"| one stream of {photos['photos']:,} photos; members of its largest session: {photos['largest'] or 'none'} "
        f"| {int(photos['alarm'] is not None)} of 1 |",
    ]


def query_lineage(result: Result) -> list[str]:
    """Distances of the descriptors of each attack, and the share of queries with the correct parent by sketches."""
    return [
        "| attack | distance to the nearest earlier descriptor, 97 % | parent by the sketch is the nearest image |",
        "|---|---|---|",
        *(f"| {case['attack']} | {case['apart']:.2f} | {percent(case['parents'])} |" for case in result["attacks"]),
    ]


def _count(share: dict[str, Any]) -> str:
    return f"{share['hits']} of {share['n']}" if share["n"] else "–"


def _share(share: dict[str, Any]) -> str:
    """The count, and the 95 % interval of the share."""
    if not share["n"]:
        return "–"
    low, high = share["interval"]
    return f"{_count(share)} ({100 * low:.1f}–{100 * high:.1f}%)"


def _alarms(share: dict[str, Any]) -> str:
    return " ".join([_count(share), *([f"({' '.join(share['rules'])})"] if share["rules"] else [])])


def _evaded(case: dict[str, Any] | None) -> str:
    if case is None:
        return "–"
    return _count(case["found"]) + ("" if case["median"] is None else f", {case['median']:.0f}")
