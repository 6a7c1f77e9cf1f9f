"""Attacks built from names, and budgets parsed from text."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from attacks.common.base import Attack
from models.errors import InputError
from models.registry import ATTACKS

__all__ = ["build_attack", "parse_epsilon"]


def build_attack(
    name: str, options: Mapping[str, Any] | None = None, *, where_accepted: Mapping[str, Any] | None = None
) -> Attack:
    """The attack with this name and these options.

    Args:
        name: of the plug-in, such as "bim".
        options: constructor arguments; "epsilon" may be a fraction as text.
        where_accepted: further arguments, ignored if the attack has no such option: DeepFool has no epsilon.

    Raises:
        UnknownNameError: there is no such attack.
        InputError: an option that the attack does not have, or a value out of its domain.
    """
    attack_class = ATTACKS.load(name)
    accepted = inspect.signature(attack_class.__init__).parameters.values()
    known = [each.name for each in accepted if each.name != "self" and each.kind != each.VAR_KEYWORD]
    of_library = any(each.kind == each.VAR_KEYWORD for each in accepted)  # further options, which the attack checks
    given = {option: value for option, value in (where_accepted or {}).items() if option in known} | dict(options or {})
    if not of_library and (unknown := sorted(set(given) - set(known))):
        raise InputError(f"attack {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    if given.get("epsilon") is not None:
        given["epsilon"] = parse_epsilon(given["epsilon"])
    attack: Attack = attack_class(**given)
    return attack


def parse_epsilon(text: str | float) -> float:
    """A budget in pixel units of [0, 1], from text such as "0.03" or "8/255".

    >>> parse_epsilon("8/255") == 8 / 255
    True

    Raises:
        InputError: not a number or fraction, not finite, or not above zero.
    """
    parts = str(text).split("/")
    try:
        numbers = [float(part) for part in parts]
        value = numbers[0] if len(numbers) == 1 else numbers[0] / numbers[1]
    except (ValueError, ZeroDivisionError) as exc:
        raise InputError(f"expected epsilon as a number or a fraction such as 0.03 or 8/255, got {text!r}") from exc
    if len(numbers) > 2 or not math.isfinite(value) or value <= 0:
        raise InputError(f"expected epsilon as one finite number or fraction above 0, such as 8/255, got {text!r}")
    return value
