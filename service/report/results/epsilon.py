"""The budget of an attacked set, and the sets that are one attack with several budgets."""

from collections.abc import Mapping
from typing import Any

__all__ = ["budgeted_attacks", "epsilon_of"]


def epsilon_of(attack: Mapping[str, Any] | None) -> float | None:
    """The budget in an attacked set's summary, for pixels in [0, 1]; None if there is none. "8/255" is accepted."""
    value = ((attack or {}).get("parameters") or {}).get("epsilon")
    if isinstance(value, str):
        above, _, below = value.partition("/")
        try:
            value = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    return None


def budgeted_attacks(figures: dict[str, Any]) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Attack (its label without the budget) → (ε, set) by rising ε, for attacks with more than one budget."""
    groups: dict[str, dict[float, dict[str, Any]]] = {}
    for entry in figures["sets"]:
        epsilon = epsilon_of(entry["attack"])
        if entry["kind"] == "attack" and epsilon is not None:
            options = [part for part in entry["name"].split(":") if not part.startswith("epsilon=")]
            groups.setdefault(":".join(options), {}).setdefault(epsilon, entry)
    return {name: sorted(group.items(), key=lambda pair: pair[0]) for name, group in groups.items() if len(group) > 1}
