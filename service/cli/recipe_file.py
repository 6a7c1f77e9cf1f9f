"""A recipe file: the [train] table of a TOML file gives the words of `plumbline train` that are not given themselves.

    [train]
    network = "resnet20:step_size=0.1"
    learning-rate = 0.01
    milestones = [120, 160, 200]
    flip = false

Keys are the options' names without dashes in front. Other tables of the file are not looked at. What belongs to a
schedule or an initialisation of the file goes with it, where the command line gives another one.
"""

import argparse
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError

__all__ = ["recipe_words", "with_recipe"]

# Options that take several numbers.
_LISTS = frozenset({"mean", "std", "milestones"})


def with_recipe(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The words of a command line; behind ``train --recipe FILE`` with those of the file first, so that others win.

    Args:
        words: beginning with the command.
        parser: of all commands.

    Raises:
        InputError: the file is no recipe, or says what the command does not know.
    """
    if words[:1] != ["train"]:
        return list(words)
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    only = argparse.ArgumentParser(add_help=False, prog="plumbline train")
    only.add_argument("--recipe", type=Path)
    found, others = only.parse_known_args(words[1:])
    if found.recipe is None:
        return list(words)
    train = commands.choices["train"]
    return ["train", *recipe_words(found.recipe, train, without=_superseded(others)), *others]


def _superseded(words: Sequence[str]) -> set[str]:
    """Keys that would do nothing beside these words, which the parser would refuse."""
    only = argparse.ArgumentParser(add_help=False, prog="plumbline train")
    for option in ("--schedule", "--initialization"):
        only.add_argument(option)
    given, _ = only.parse_known_args(words)
    keys = {"milestones", "decay"} if given.schedule not in (None, "step") else set()
    return keys | ({"gain"} if given.initialization == "default" else set())


def recipe_words(path: Path, parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> list[str]:
    """The [train] table as words of the command line.

    Args:
        without: keys that are checked and left out.

    Raises:
        InputError: the file cannot be read, has no such table, or has a key or a value that `parser` does not know.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("train")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InputError(f"expected --recipe to name a readable TOML file, got {path}: {exc}") from exc
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: expected a table [train], got none; see docs/training.md")
    known = {
        action.option_strings[0].removeprefix("--"): action
        for action in parser._actions
        if action.option_strings and action.option_strings[-1] not in ("--help", "--recipe")
    }
    if unknown := sorted(set(table) - set(known)):
        raise InputError(
            f"{path}: expected only options of plumbline train in [train], got {', '.join(unknown)}; known: "
            f"{', '.join(sorted(known))}"
        )
    words = {name: _words(path, name, value, known[name], parser) for name, value in table.items()}
    return [word for name, spoken in words.items() if name not in without for word in spoken]


def _words(path: Path, name: str, value: Any, action: argparse.Action, parser: argparse.ArgumentParser) -> list[str]:
    switch = action.nargs == 0
    if isinstance(value, bool) and switch:
        if value:
            return [f"--{name}"]
        return [f"--no-{name}"] if f"--no-{name}" in action.option_strings else []
    if name in _LISTS and value == [] and action.default == ():
        return []
    several = name in _LISTS and isinstance(value, list)
    values, kinds = (value, int | float) if several else ([value], str | int | float)
    if switch or not values or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in values):
        wanted = "true or false" if switch else "a text, a number" + (", or numbers in a list" * (name in _LISTS))
        raise InputError(f"{path}: expected {name} as {wanted}, got {value!r:.200}")
    text = ",".join(map(str, values))
    try:
        parser._check_value(action, parser._get_value(action, text))
    except argparse.ArgumentError as exc:
        raise InputError(f"{path}: expected a value of {name}, got {value!r:.200}: {exc.message}") from exc
    return [f"--{name}={text}"]
