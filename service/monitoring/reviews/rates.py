"""Precision of flags and the share of missed images, from reviews, with 95 % intervals (Clopper-Pearson)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from models.intervals import clopper_pearson

__all__ = ["review_rates"]


def review_rates(counts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures by model, from the rows of `Store.review_counts`.

    Returns:
        For each model: "precision", the share of correct flags among the flagged images that reviewers decided on, by
        group: "all", "class:NAME" and "component:NAME"; "missed", the share of missed ones among the images of the
        random sample that are not flagged and that reviewers decided on; "days", both by day, oldest first; and
        "clients", the number of decisions of clients by decision. A rate has the fields hits, count, rate, low, high.
    """
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for row in counts:
        by_model.setdefault(row["model"], []).append(row)
    return {model: _figures(rows) for model, rows in by_model.items()}


def _figures(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    hits: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    clients: Counter[str] = Counter()
    for row in rows:
        number = row["n"]
        if row["source"] == "client":
            clients[row["decision"]] += number
            continue
        if row["flagged"]:
            component = row["main_component"]
            groups = ["all", f"class:{row['class_name']}", f"day:{row['day']}"]
            groups += [] if component is None else [f"component:{component}"]
        elif row["sampled"]:
            groups = ["missed", f"missed day:{row['day']}"]
        else:
            continue
        for group in groups:
            totals[group] += number
            hits[group] += number * (row["decision"] in ("correct_flag", "missed"))

    def rate(group: str) -> dict[str, Any] | None:
        if not totals[group]:
            return None
        interval = clopper_pearson(hits[group], totals[group])
        share = hits[group] / totals[group]
        return {"hits": hits[group], "count": totals[group], "rate": share, "low": interval.low, "high": interval.high}

    days = sorted({group.rpartition("day:")[2] for group in totals if group.startswith(("day:", "missed day:"))})
    named = [group for group in totals if group == "all" or group.startswith(("class:", "component:"))]
    return {
        "precision": {group: rate(group) for group in sorted(named)},
        "missed": rate("missed"),
        "days": [{"day": day, "precision": rate(f"day:{day}"), "missed": rate(f"missed day:{day}")} for day in days],
        "clients": dict(clients),
    }
