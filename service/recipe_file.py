"""A recipe file: the [train] table of a TOML file gives the words of `plumbline train` that are not given themselves.

    [train]
    network = "resnet20:step_size=0.1"
    learning-rate = 0.01
    milestones = [120, 160, 200]
    flip = false

Keys are the options' names without dashes in front. Other tables of the file are not looked at.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import InputError

__all__ = ["recipe_words", "with_recipe"]


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
    return ["train", *recipe_words(found.recipe, commands.choices["train"]), *others]


def recipe_words(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The [train] table as words of the command line.

    Raises:
        InputError: the file cannot be read, has no such table, or has a key or a kind of value that `parser` does not
            know. What is no value of its option, the parser says itself.
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
    return [word for name, value in table.items() for word in _words(path, name, value, known[name])]


def _words(path: Path, name: str, value: Any, action: argparse.Action) -> list[str]:
    switch = action.nargs == 0
    if isinstance(value, bool) and switch:
        if value:
            return [f"--{name}"]
        return [f"--no-{name}"] if f"--no-{name}" in action.option_strings else []
    values = value if isinstance(value, list) else [value]
    if switch or not values or not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        wanted = "true or false" if switch else "a text, a number, or a list of these"
        raise InputError(f"{path}: expected {name} as {wanted}, got {value!r:.200}")
    return [f"--{name}={','.join(map(str, values))}"]
