import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks
from benchmarks.tables.pages import PAGES as PAGES_WITH_TABLES
from benchmarks.tables.pages import with_tables
from models.registry import ATTACKS, DETECTORS
from tests.service.cli.command_line import commands, options_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _options() -> set[str]:
    return {option for command in commands() for option in options_of(command)} | {"--help", "--version"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_of_a_plumbline_command_in_the_pages_exists(page: Path) -> None:
    known = _options()
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(
        r"plumbline (?:train|attack|fit|calibrate|evaluate|score|serve|inspect|check|list|demo|geometry)\b[^\n`]*", text
    )
    for command in found:
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", command):
            assert flag in known, f"{flag} in {command!r}"


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {command for command in commands() if f"plumbline {command}" in text or f"make {command}" in text}
    assert named == set(commands())


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_recipes_name_attacks_and_detectors_that_exist() -> None:
    recipes = sorted((ROOT / "benchmarks" / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        attacks = [*recipe["fit"]["attack"], *recipe["evaluate"]["attacks"], recipe["serve"]["attack"]]
        assert {attack.partition(":")[0] for attack in attacks} <= set(ATTACKS.names())
        assert recipe["fit"].get("detector", "transport") in DETECTORS.names()


@pytest.mark.parametrize("page", PAGES_WITH_TABLES, ids=lambda page: page.name)
def test_tables_on_pages_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run python -m benchmarks tables.pages"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_on_pages_exist(page: Path) -> None:
    named = re.findall(r"python -m benchmarks (\w+\.\w+)", page.read_text(encoding="utf-8"))
    assert set(named) <= benchmarks().keys()


def test_every_result_is_on_a_page_and_compact_and_has_its_provenance() -> None:
    markers = re.findall(r"<!-- table: (\S+)", "".join(page.read_text(encoding="utf-8") for page in PAGES_WITH_TABLES))
    printed = [pattern for marker in markers for pattern in marker.strip("[]").split(",")]
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert sum(path.stat().st_size for path in results) < 1_500_000
    for path in results:
        assert any(fnmatch(path.stem, pattern) for pattern in printed), path.name
        result = json.loads(path.read_text(encoding="utf-8"))
        assert {"name", "command", "machine", "versions", "revision", "n", "seed"} <= result.keys(), path.name


def test_evaluations_have_options_attacks_and_detectors_that_exist() -> None:
    known = _options()
    evaluations = sorted((ROOT / "benchmarks" / "evaluations").glob("*.toml"))
    assert evaluations
    for path in evaluations:
        evaluation = tomllib.loads(path.read_text(encoding="utf-8"))
        words = evaluation["evaluate"]
        assert {f"--{word}" for word in [*words, *evaluation.get("train", {})]} <= known, path.name
        attacks = {name for key in ("fit-on", "test-on") for choice in words[key] for name in choice.split("+")}
        assert {name.partition(":")[0] for name in attacks} <= set(ATTACKS.names()), path.name
        assert {name.partition(":")[0] for name in words["detectors"]} <= set(DETECTORS.names()), path.name
