"""Tables of the page on reproduction: the state of every table, figure, algorithm and equation of the sources."""

import tomllib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.tables.cells import Result

__all__ = ["KINDS", "STATES", "expanded", "reproduction", "reproduction_summary", "sources"]

FILE = Path(__file__).resolve().parents[1] / "reproduction.toml"
KINDS = {"table": "tables", "figure": "figures", "algorithm": "algorithms", "equation": "equations"}
STATES = {
    "reproduced": "reproduced", "reduced": "reduced", "recipe": "recipe only", "not_built": "not built",
    "background": "background",
}  # fmt: skip
_RATE = 5e12  # floating-point operations per second that a GPU sustains in training


@lru_cache
def sources() -> dict[str, Any]:
    """The sources by name, each with a short name, the number of its items by kind, and `rows`."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def expanded(numbers: str) -> list[int]:
    """The numbers of a row: "1, 3-5" → [1, 3, 4, 5]."""
    parts = [part.strip().split("-") for part in numbers.split(",")]
    return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]


def reproduction(result: Result, source: str) -> list[str]:
    """A row per item, or group of items, of one source: state, place of the result or command, and limits.

    Args:
        result: the arithmetic of the recipes.
        source: name in reproduction.toml.
    """
    lines = ["| | content | state | where | remark |", "|---|---|---|---|---|"]
    for row in sources()[source]["rows"]:
        name = "LAP-Net" if row["kind"] == "algorithm" else f"{row['kind']} {row['n'].replace('-', '–')}"
        cells = [name, row["what"], STATES[row["state"]], _where(row, result), row.get("why", "")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def reproduction_summary(_result: Result) -> list[str]:
    """Numbers of items of each source and kind, by state."""
    lines = ["| source | | " + " | ".join(STATES.values()) + " |", "|---|---|" + "---|" * len(STATES)]
    for source in sources().values():
        for kind, plural in KINDS.items():
            rows = [row for row in source["rows"] if row["kind"] == kind]
            counts = Counter(dict.fromkeys(STATES, 0))
            for row in rows:
                counts[row["state"]] += len(expanded(row["n"]))
            if rows:
                cells = " | ".join(str(counts[state] or "–") for state in STATES)
                lines.append(f"| {source['short']} | {plural} | {cells} |")
    return lines


def _where(row: dict[str, str], result: Result) -> str:
    parts = []
    if page := row.get("page"):
        parts.append(f"[{page.partition('#')[0].removesuffix('.md')}]({page})")
    if file := row.get("result"):
        parts.append(f"`{file}.json`")
    if command := row.get("command"):
        parts.append(f"`{command}`")
    if recipe := row.get("recipe"):
        name, _, options = recipe.partition(" ")
        parts.append(f"`{recipe}`" + (f", {_hours(result, name)}" if not options.startswith("--network") else ""))
    return ", ".join(parts)


def _hours(result: Result, recipe: str) -> str:
    hours = result["recipes"][recipe]["total"] / _RATE / 3600
    return f"{hours:.0f} h" if hours >= 2 else f"{hours:.1f} h"
