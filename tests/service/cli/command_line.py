"""The command line as tests read it: the request of given words, and the options of each command."""

from typing import Any

from service.cli.main import app

__all__ = ["commands", "options_of", "request_of"]


def request_of(*words: object) -> Any:
    """The request that these words make; nothing runs.

    Raises:
        CycloptsError: words that are not a command line.
        InputError: a recipe that is refused.
    """
    _, bound, _ = app.parse_args([str(word) for word in words], exit_on_error=False, print_error=False)
    return bound.arguments["request"]


def commands() -> list[str]:
    """The names of all commands, sub-commands after their command: "geometry circles"."""
    names = [name for name in app if not name.startswith("-")]
    nested = [f"{name} {inner}" for name in names for inner in app[name] if not inner.startswith("-")]
    return [*names, *nested]


def options_of(command: str) -> set[str]:
    """The options of a command, such as "--out"."""
    found = app
    for word in command.split():
        found = found[word]
    return {name for each in found.assemble_argument_collection() for name in each.names if name.startswith("--")}
