"""Transfer of a network and an attack to worker processes as bytes, packed once and unpacked once per process.

The bytes are a pickle from this process for its own children. Nothing is unpickled from a file or from outside.
"""

import functools
import importlib.machinery
import pickle
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

import cloudpickle  # type: ignore[import-untyped]
from torch import nn

from attacks.common.base import Attack
from models.errors import AttackError

__all__ = ["pack", "unpack"]


def pack(network: nn.Module, attack: Attack) -> bytes:
    """Network and attack as bytes for `unpack` in another process, with code that the other process cannot import.

    Raises:
        AttackError: something in the network cannot be pickled.
    """
    with ExitStack() as stack:
        for module in _not_importable(network, attack):
            stack.enter_context(_by_value(module))
        try:
            return bytes(cloudpickle.dumps((network, attack)))
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, ValueError) as exc:
            raise AttackError(f"this network cannot be sent to worker processes: {exc}; use workers=1") from exc


@functools.lru_cache(maxsize=1)
def unpack(packed: bytes) -> tuple[nn.Module, Attack]:
    """Network and attack; the same objects for the same bytes.

    Raises:
        AttackError: code that they need is missing in this process.
    """
    try:
        network, attack = pickle.loads(packed)
    except (ImportError, AttributeError, RuntimeError, TypeError) as exc:
        raise AttackError(f"a worker process cannot rebuild the network: {exc}; use workers=1") from exc
    return network, attack


def _not_importable(network: nn.Module, attack: Attack) -> list[ModuleType]:
    """Modules of their classes that are not on the import path, such as a user's file loaded by its location."""
    # The package of a module stands for all modules in it, whose functions its classes may call.
    names = {type(part).__module__.partition(".")[0] for part in (*network.modules(), attack)}
    return [
        sys.modules[name]
        for name in sorted(names)
        if name in sys.modules and importlib.machinery.PathFinder.find_spec(name) is None
    ]


@contextmanager
def _by_value(module: ModuleType) -> Iterator[None]:
    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
