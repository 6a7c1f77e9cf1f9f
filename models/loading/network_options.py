"""The options of our own networks, on the command line and in specifications.

On the command line: ``resnet20:batch_normalization=false:step_size=0.1``.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from models.errors import InputError
from models.networks.runge_kutta import OUTPUTS, format_steps, parse_steps
from models.options import check_choice, check_count, check_number, parse_value

__all__ = ["NETWORK_OPTIONS", "Argument", "check_network_option", "parse_network_options"]

Argument = bool | int | float | str

_MAX_BLOCKS = 110
_MAX_STAGES = 4


def check_network_option(name: str, value: Any) -> Argument:
    """The value, if it is of the option's type and in its range.

    Raises:
        InputError: it is not. The ranges prevent that a network from a file fills the memory.
    """
    return NETWORK_OPTIONS[name](name, value)


def parse_network_options(network: str, constructor: Callable[..., Any], words: list[str]) -> dict[str, Argument]:
    """The options in the words ``OPTION=VALUE`` after a network's name.

    Args:
        network: its name, for messages.
        constructor: its constructor, whose parameters are the options.
        words: the words.

    Raises:
        InputError: a word without a value, an option that the network does not have, or a value outside its range.
    """
    known = [option for option in inspect.signature(constructor).parameters if option in NETWORK_OPTIONS]
    options = {}
    for word in words:
        option, separator, text = word.partition("=")
        if not separator or option not in known:
            raise InputError(
                f"expected {network}:OPTION=VALUE with an option of {network}, which are {', '.join(known) or 'none'}; "
                f"got {word!r}"
            )
        if option in options:
            raise InputError(f"{network}: the option {option} is given twice; remove {word!r}")
        options[option] = check_network_option(option, parse_value(text))
    return options


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"expected {name} as true or false, got {value!r:.200}")
    return value


def _count(most: int) -> Callable[[str, Any], int]:
    return lambda name, value: check_count(name, value, most=most)


def _step_size(name: str, value: Any) -> float:
    if (step_size := check_number(name, value, above=0)) > 100:
        raise InputError(f"expected {name} of at most 100, got {value!r}")
    return step_size


def _output(name: str, value: Any) -> str:
    return check_choice(name, str(value), tuple(OUTPUTS))


def _steps(name: str, value: Any) -> str:
    """The text in its shortest form; a single step size may be a number."""
    try:
        steps = parse_steps(value if isinstance(value, str) else repr(value))
    except ValueError as exc:
        raise InputError(
            f"expected {name} as step sizes by commas within a stage and slashes between stages, such as "
            f"1,0.5,0.5/1/1, got {value!r:.200}"
        ) from exc
    if len(steps) > _MAX_STAGES or max(map(len, steps)) > _MAX_BLOCKS:
        raise InputError(
            f"expected {name} of at most {_MAX_STAGES} stages and {_MAX_BLOCKS} blocks each, got {value!r:.200}"
        )
    return format_steps([_step_size(name, size) for size in stage] for stage in steps)


NETWORK_OPTIONS: Mapping[str, Callable[[str, Any], Argument]] = {
    "batch_normalization": _switch,
    "step_size": _step_size,
    "blocks": _count(_MAX_BLOCKS),
    "filters": _count(512),
    "fixed_encoder": _switch,
    "residual": _switch,
    "steps": _steps,
    "forward_with": _output,
    "ensemble": _switch,
}
