"""Tables of attacks that know the detector."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.tables.cells import Entry, Result, number, percent
from benchmarks.tables.detection import objectives_of
from models.intervals import clopper_pearson

__all__ = ["accepted_or_flagged", "adaptive", "random_starts", "robustness"]

# Per cent of 1,700 flagged images, ResNet-110 (S. Karkar's thesis, section 5.4.5).
_PUBLISHED_EVADED = {
    ("cross-entropy", "transport"): 16.5, ("cross-entropy", "mahalanobis"): 25.7,
    ("least action", "transport"): 6.8, ("least action", "mahalanobis"): 12.9,
}  # fmt: skip


def adaptive(result: Result, epsilons: Sequence[str] = ("2", "8")) -> list[str]:
    """Share of the attempted images that evade network and detector, and the size of the perturbation.

    Args:
        result: a condensed evaluation.
        epsilons: the budgets, in 255ths, that are printed of attacks with budgets.
    """
    lines = [
        "| detector | attack | images | evaded (95 % interval) | within L∞ 8/255 | within L2 0.5 | median L2 | "
        "median L∞ ·255 | queries |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for detector, found in _detectors(result):
        for attack, entry in found["attacks"].items():
            if "budgets" not in entry:
                lines.append(f"| {detector} | `{attack}` | {_evaded(entry)} |")
            for each in entry.get("budgets", ()):
                if (size := f"{255 * each['epsilon']:.3g}") in epsilons:
                    lines += [f"| {detector} | `{attack}`, ε {size}/255 | {_evaded(each)} |"]
        lines.append(f"| {detector} | any of them | {_evaded(found['union'])} |")
    return lines


def robustness(result: Result) -> list[str]:
    """Share of images that no attack broke within ε, and the distance at which that would imply a robust classifier."""
    lines = [
        "| detector | correct, accepted and not evaded within (95 % interval) | a classifier would be correct within |",
        "|---|---|---|",
    ]
    for detector, found in _detectors(result):
        for each in found["robustness"]:
            low, high = each["robust_interval"]
            lines.append(
                f"| {detector} | {255 * each['epsilon']:.3g}/255: {each['robust']:.1%} ({low:.1%} to {high:.1%}) | "
                f"{255 * each['implied_epsilon']:.3g}/255 |"
            )
    return lines


def accepted_or_flagged(result: Result) -> list[str]:
    """Per detector and ε: right and accepted or flagged under every attack, beside the network alone at ε and ε/2."""
    lines = [
        "| detector | ε | right and accepted | right and accepted, or flagged (95 % interval) | network alone at ε | "
        "at ε/2 | points above the network at ε |",
        "|---|---|---|---|---|---|---|",
    ]
    for detector, found in _detectors(result):
        for each in found["robustness"]:
            low, high = each["right_or_flagged_interval"]
            alone, half = each["network"], each["network_half"]
            above = "–" if alone is None else f"{100 * (each['right_or_flagged'] - alone):+.1f}"
            lines.append(
                f"| {detector} | {255 * each['epsilon']:.3g}/255 | {percent(each['robust'])} | "
                f"{percent(each['right_or_flagged'])} ({low:.1%} to {high:.1%}) | "
                f"{'–' if alone is None else percent(alone)} | {'–' if half is None else percent(half)} | {above} |"
            )
    return lines


def random_starts(results: Mapping[str, Result]) -> list[str]:
    """Share of flagged images of CW with a random start of HopSkipJump, and the published share of evading images."""
    lines = [
        "| trained with | detector | published | flagged images | with a random start (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for objective, result in objectives_of(results):
        for detector, figures in _detectors(result):
            entry = figures["attacks"]["black_box"]
            share, count, ours = entry.get("random_start"), entry["attempted"], "–"
            if share is not None:
                interval = clopper_pearson(round(share * count), count)
                ours = f"{percent(share)} ({interval.low:.1%} to {interval.high:.1%})"
            published = _PUBLISHED_EVADED.get((objective, detector.strip("`")))
            theirs = "–" if published is None else f"{published}%"
            lines.append(f"| {objective} | {detector} | {theirs} | {count} | {ours} |")
    return lines


def _detectors(result: Result) -> Iterator[tuple[str, Entry]]:
    for label, figures in result["adaptive"].items():  # "transport fitted on fgm, all_class vote alone"
        title, _, vote = label.partition(", ")
        name = title.partition(" fitted on ")[0]
        yield f"`{name}`" + (f", {vote}" if vote else ""), figures


def _evaded(entry: Entry) -> str:
    if not entry["attempted"]:
        return "0 | – | – | – | – | – | –"
    low, high = entry["interval"]
    return (
        f"{entry['attempted']} | {entry['share']:.1%} ({low:.1%} to {high:.1%}) | {_within(entry, 'linf', 8 / 255)} | "
        f"{_within(entry, 'l2', 0.5)} | {number(entry['l2_median'], 1, 2)} | "
        f"{number(entry['linf_median'], 255, 1)} | {number(entry.get('queries_median'), 1, 0)}"
    )


def _within(entry: Entry, norm: str, limit: float) -> str:
    for each in entry.get("within", ()):
        if each["norm"] == norm and abs(each["limit"] - limit) < 1e-6:
            return percent(each["share"])
    return "–"
