"""A recipe file gives options of `plumbline train` that the command line does not give.

    [train]
    network = "resnet20:step_size=0.1"
    learning-rate = 0.01
    milestones = [120, 160, 200]
    flip = false

Keys are the names of the options without dashes in front. Other tables of the file are ignored. Options of a schedule
or an initialization that the command line replaces are ignored too.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from models.errors import InputError

__all__ = ["apply_recipe"]

_LISTS = frozenset({"mean", "std", "milestones", "sizes"})  # options of several numbers
_SCALARS = (str, int, float)


def apply_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Add the options of the file that --recipe names to those of the command line. A cyclopts config.

    Raises:
        InputError: the file is not a recipe, or has a key or a value that `plumbline train` does not have.
    """
    if commands != ("train",):
        return
    given = {argument.name.removeprefix("--"): argument for argument in arguments if argument.name.startswith("--")}
    if not given["recipe"].tokens:
        return
    path = Path(given["recipe"].tokens[-1].value)
    table = _read(path)
    known = set(given) - {"recipe"}
    if unknown := sorted(set(table) - known):
        raise InputError(
            f"{path}: [train] has the unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    values = {name: _checked(path, name, value, given[name].hint) for name, value in table.items()}
    superseded = _superseded({name: argument.tokens[-1].value for name, argument in given.items() if argument.tokens})
    kept = {name: value for name, value in values.items() if value != [] and name not in superseded}
    Dict(kept, use_commands_as_keys=False, source=str(path))(app, commands, arguments)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("train")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InputError(f"--recipe must name a readable TOML file; {path}: {exc}") from exc
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: the table [train] is missing; see docs/training.md")
    return table


def _superseded(given: Mapping[str, str]) -> set[str]:
    """Keys that have no effect beside these options, so that the recipe would be refused."""
    keys = {"milestones", "decay"} if given.get("schedule", "step") != "step" else set()
    return keys | ({"gain"} if given.get("initialization") == "default" else set())


def _checked(path: Path, name: str, value: Any, hint: Any) -> Any:
    """The value as cyclopts takes it: a text, true or false, or numbers joined by commas."""
    switch = hint in (bool, bool | None)
    several = name in _LISTS and isinstance(value, list)
    parts = value if several else [value]
    allowed = (bool,) if switch else ((int, float) if several else _SCALARS)
    if (value == [] and name not in {"milestones", "sizes"}) or not all(
        isinstance(part, allowed) and isinstance(part, bool) == switch for part in parts
    ):
        wanted = "true or false" if switch else "a text or a number" + (", or a list of numbers" * (name in _LISTS))
        raise InputError(f"{path}: expected {name} to be {wanted}, got {value!r:.200}")
    if several:
        return ",".join(map(str, value)) or []
    return value if switch else str(value)
