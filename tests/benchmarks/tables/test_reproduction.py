"""The list of reproduced work is complete, and its pages, results and commands exist."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import RESULTS
from benchmarks.tables.reproduction import KINDS, STATES, expanded, reproduction, reproduction_summary, sources
from service.inputs import objective_of
from tests.service.cli.command_line import request_of

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "benchmarks" / "recipes" / "papers"


def _rows() -> Iterator[dict[str, Any]]:
    for source in sources().values():
        yield from source["rows"]


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings, as the site makes them."""
    headings = re.findall(r"^#{1,4} (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_ranges_of_numbers() -> None:
    assert expanded("1, 3-5") == [1, 3, 4, 5]


@pytest.mark.parametrize("name", sources())
def test_every_number_of_a_source_is_listed_once(name: str) -> None:
    source = sources()[name]
    assert {row["kind"] for row in source["rows"]} <= set(KINDS)
    for kind, plural in KINDS.items():
        listed = [number for row in source["rows"] if row["kind"] == kind for number in expanded(row["n"])]
        assert sorted(listed) == list(range(1, source[plural] + 1)), kind


def test_states_have_what_they_need() -> None:
    for row in _rows():
        assert row["state"] in STATES
        if row["state"] in ("reproduced", "reduced"):
            assert "page" in row or "result" in row, row
        assert (row["state"] == "recipe") == ("recipe" in row or "command" in row), row
        if row["state"] in ("reduced", "not_built"):
            assert row.get("why"), row


def test_pages_anchors_and_results_exist() -> None:
    for row in _rows():
        page, _, anchor = row.get("page", "index.md").partition("#")
        path = ROOT / "docs" / page
        assert path.exists(), row
        assert not anchor or anchor in _anchors(path), row
        assert "result" not in row or (RESULTS / f"{row['result']}.json").exists(), row


def test_commands_are_accepted() -> None:
    for row in _rows():
        if "recipe" in row:
            name, *options = row["recipe"].split()
            request = request_of("train", "--recipe", RECIPES / f"{name}.toml", *options, "--out", "X")
            objective_of(request.objective, {})
        elif "command" in row and row["command"].startswith("plumbline "):
            request_of(*row["command"].split()[1:])
        for file in re.findall(r"benchmarks/\S+\.\w+", row.get("command", "")):
            assert (ROOT / file).exists(), file


def test_tables_have_a_row_per_group_and_count_every_number() -> None:
    names = [path.stem for path in RECIPES.glob("*.toml")]
    recipes: dict[str, Any] = {"recipes": {name: {"total": 1.8e16} for name in names}}
    for name, source in sources().items():
        lines = reproduction(recipes, name)
        assert len(lines) == 2 + len(source["rows"])
        assert {line.count(" | ") for line in lines[2:]} == {4}
    assert "1.0 h" in "".join(reproduction(recipes, "thesis"))
    counted = sum(int(number) for line in reproduction_summary(recipes)[2:] for number in re.findall(r"\| (\d+)", line))
    assert counted == sum(source[plural] for source in sources().values() for plural in KINDS.values())


def test_the_counted_recipes_are_those_of_the_folder() -> None:
    counted = json.loads((RESULTS / "recipe_cost.json").read_text(encoding="utf-8"))["recipes"]
    assert counted.keys() == {path.stem for path in RECIPES.glob("*.toml")}
    for name, figures in counted.items():
        recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))["train"]
        assert figures["total"] == 3 * figures["forward"] * figures["images"] * recipe["epochs"]
