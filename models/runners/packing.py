"""Transfer of a function with its network to worker processes as bytes, packed once and unpacked once per process.

The bytes are a pickle from this process for its own children. Nothing is unpickled from a file or from outside.
"""

import functools
import importlib.machinery
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from models.errors import RunnerError
from models.extras import import_optional

__all__ = ["pack", "unpack"]


def pack(work: Callable[[Any], Any]) -> bytes:
    """A function as bytes for `unpack` in another process, with code that the other process cannot import.

    Args:
        work: an object whose attributes are networks, attacks and plain values.

    Raises:
        RunnerError: something in it cannot be pickled.
    """
    cloudpickle = import_optional("cloudpickle")
    with ExitStack() as stack:
        for module in _not_importable(work):
            stack.enter_context(_by_value(cloudpickle, module))
        try:
            return bytes(cloudpickle.dumps(work))
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, ValueError) as exc:
            raise RunnerError(
                f"this network cannot be sent to worker processes: {exc}; use one local process (workers=1)"
            ) from exc


@functools.lru_cache(maxsize=1)
def unpack(packed: bytes) -> Callable[[Any], Any]:
    """The function; the same object for the same bytes.

    Raises:
        RunnerError: code that it needs is missing in this process.
    """
    try:
        work: Callable[[Any], Any] = pickle.loads(packed)
    except (ImportError, AttributeError, RuntimeError, TypeError) as exc:
        raise RunnerError(
            f"a worker process cannot rebuild the network: {exc}; use one local process (workers=1)"
        ) from exc
    return work


def _not_importable(work: Callable[[Any], Any]) -> list[ModuleType]:
    """Modules of the classes of its attributes that are not on the import path, such as a user's file."""
    # The package of a module stands for all modules in it, whose functions its classes may call.
    names = set[str]()
    for each in vars(work).values():
        parts = each.modules() if isinstance(each, nn.Module) else [each]
        names |= {type(part).__module__.partition(".")[0] for part in parts}
    return [
        sys.modules[name]
        for name in sorted(names - {"builtins"})
        if name in sys.modules and importlib.machinery.PathFinder.find_spec(name) is None
    ]


@contextmanager
def _by_value(cloudpickle: Any, module: ModuleType) -> Iterator[None]:
    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
