"""Callables in a user's Python file, identified by its SHA-256."""

import hashlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import InputError, NetworkError

__all__ = ["callable_in"]


def callable_in(path: Path, name: str) -> tuple[Callable[..., Any], str]:
    """The callable `name` of a Python file, and the SHA-256 of the bytes that ran.

    The file runs as a module of its own, never from a byte-code cache; its folder is importable while it runs. The
    SHA-256 does not cover files that it imports.

    Raises:
        NetworkError: the file raises an exception.
        InputError: it has no such callable.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    module = types.ModuleType(f"plumbline_user_{digest[:16]}")
    module.__file__ = str(path)
    # Dataclasses and pickle (worker processes) look up a class's module by name.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as exc:  # a user's file may raise anything
        raise NetworkError(f"{path}: the file failed with {type(exc).__name__}: {exc}") from exc
    finally:
        sys.path.remove(str(path.resolve().parent))
    function = getattr(module, name, None)
    if not callable(function):
        public = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise InputError(f"{path} has no callable {name!r}; it has {', '.join(public) or 'no callables'}")
    return function, digest
