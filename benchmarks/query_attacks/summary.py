"""Tables of the outcomes of query streams."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.query_attacks.benign import UNRELATED
from models.intervals import clopper_pearson

__all__ = ["summary"]

GROUPS = {"ordinary": False, "hard": True}


def share(hits: int, count: int) -> dict[str, Any]:
    """Count, number and 95 % interval."""
    interval = clopper_pearson(hits, count) if count else None
    return {"hits": hits, "n": count, "interval": None if interval is None else [interval.low, interval.high]}


def summary(outcomes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The tables."""
    outcomes = list(outcomes)
    attacks = [each for each in outcomes if "attack" in each]
    benign = [each for each in outcomes if "kind" in each]
    [photos] = [each for each in outcomes if "photos" in each]
    result: dict[str, Any] = {"attacks": [], "evasion": [], "benign": [], "photos": photos}
    for name in dict.fromkeys(each["attack"] for each in attacks):
        own = [each for each in attacks if each["attack"] == name]
        long = [each for each in own if each["queries"] >= 64]
        alarms = [each["none"]["alarm"] for each in long if each["none"]["alarm"] is not None]
        won = [each for each in own if each["success"] is not None]
        late = [each for each in won if each["success"] >= 63]
        places = [each["success"] + 1 for each in won]
        result["attacks"].append({
            "attack": name, "images": len(own), "found": share(len(alarms), len(long)),
            "median": float(np.median(alarms)) if alarms else None,
            "p90": float(np.quantile(alarms, 0.9)) if alarms else None,
            "successes": len(won), "median_success": float(np.median(places)) if won else None,
            "first": share(sum(map(alarm_first, won)), len(won)),
            "first_late": share(sum(map(alarm_first, late)), len(late)),
            "apart": max(each["apart"] for each in own), "parents": float(np.mean([each["parents"] for each in own])),
            "rules": {rule: sum(rule in each["none"]["rules"] for each in long) for rule in "DKNHFCB"},
        })  # fmt: skip
        evaded = [each for each in own if "4 keys" in each and each["queries"] >= 64]
        variants = [variant for variant in (evaded[0] if evaded else {}) if isinstance(own[0].get(variant), dict)]
        for variant in variants:
            cases = [each[variant] for each in evaded if each[variant].get("queries", 64) >= 64]
            alarmed = [case["alarm"] for case in cases if case["alarm"] is not None]
            result["evasion"].append({
                "attack": name, "variant": variant, "found": share(len(alarmed), len(cases)),
                "median": float(np.median(alarmed)) if alarmed else None,
            })  # fmt: skip
    for kind in dict.fromkeys(each["kind"] for each in benign):
        own = [each for each in benign if each["kind"] == kind]
        result["benign"].append({
            "kind": kind, "similar": share(sum(each["largest"] >= 32 for each in own), len(own)),
            "largest": max(each["largest"] for each in own), "chain": max(each["chain"] for each in own),
            **{group: false_alarms(each for each in own if each["hard"] == hard) for group, hard in GROUPS.items()},
        })  # fmt: skip
    variants_of_one = [each for each in benign if each["kind"] not in UNRELATED]
    result["totals"] = {
        group: false_alarms(each for each in variants_of_one if each["hard"] == hard) for group, hard in GROUPS.items()
    } | {"unrelated": false_alarms(each for each in benign if each["kind"] in UNRELATED)}
    return result


def alarm_first(outcome: dict[str, Any]) -> bool:
    """Whether the alarm comes with or before the successful query."""
    alarm = outcome["none"]["alarm"]
    return alarm is not None and alarm <= outcome["success"] + 1


def false_alarms(outcomes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Share of streams with an alarm, and the rules."""
    outcomes = list(outcomes)
    alarmed = [each for each in outcomes if each["alarm"] is not None]
    return {**share(len(alarmed), len(outcomes)), "rules": sorted({rule for each in alarmed for rule in each["rules"]})}
