"""A user's Python file and the modules that it imports from its folder, isolated from all other modules of the process.

Many repositories have folders with the names of our packages (``from models import resnet18``), or modules with the
same names (``utils``). Therefore each file has a package of its own, `plumbline_user_N`, whose `__path__` is the
file's folders: ``models/resnet.py`` beside the file becomes ``plumbline_user_N.models.resnet``. The code in these
modules has its own ``__import__``, which looks there first. This holds for imports inside functions too, in every
thread, and changes nothing for other code.
"""

import ast
import builtins
import hashlib
import importlib
import importlib.util
import itertools
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

from models.errors import InputError, NetworkError
from models.files import placeholder

__all__ = ["UserFile", "code_identity", "load_user_file", "without_package"]

_PREFIX = "plumbline_user_"
_ROOT = Path(__file__).resolve().parents[2]
_OURS = frozenset({"attacks", "detector", "models", "service"})

_numbers = itertools.count(1)
_by_package: dict[str, "UserFile"] = {}
_by_path: dict[Path, "UserFile"] = {}
_lock = threading.RLock()


def load_user_file(path: Path) -> "UserFile":
    """The file after its code ran; the same object as before if neither the file nor what it imports has changed.

    Raises:
        InputError: it is empty, or no Python file.
        NetworkError: it raises an exception.
    """
    if fault := placeholder(path):
        raise InputError(f"{path}: {fault}")
    resolved = path.resolve()
    with _lock:
        known = _by_path.get(resolved)
        if known is None or not known.unchanged():
            known = UserFile(resolved)
            _by_path[resolved] = known
        return known


def code_identity(module: str) -> str:
    """The module's name; for a module of a user's file, its name there and the SHA-256 of the code that was loaded."""
    user = _by_package.get(module.partition(".")[0])
    if user is None:
        return module
    digests = "".join(sorted(user.digests.values()))
    return f"{module.partition('.')[2]}:{hashlib.sha256(digests.encode()).hexdigest()}"


def without_package(message: object) -> str:
    """A message of an exception, with the names of modules as the user wrote them."""
    return re.sub(rf"{_PREFIX}\d+\.", "", str(message))


class UserFile:
    """A user's file; the constructor runs it.

    Args:
        path: the file, resolved.

    Raises:
        NetworkError: the file raises an exception.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digests: dict[Path, str] = {}  # SHA-256 of every own file whose code ran
        self.package = f"{_PREFIX}{next(_numbers)}"
        # Read by `__import__` of the user's modules.
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._importlib = _Importlib("importlib")
        self._importlib.import_module = self._import_module  # type: ignore[attr-defined]
        self._own: dict[str, bool] = {}
        self._sys_path = tuple(sys.path)
        package = types.ModuleType(self.package)
        _by_package[self.package] = self
        sys.modules[self.package] = package
        try:
            levels = _relative_levels(path)
            self._root = _root(path.parent, levels)
            # As for a script, the file's folder comes first.
            package.__path__ = list(dict.fromkeys([str(path.parent), str(self._root)]))
            self._module = self._run(in_package=levels > 0)
            # Folders that the file put on the import path are for the file alone.
            for folder in [entry for entry in sys.path if entry not in self._sys_path]:
                package.__path__.append(folder)
                sys.path.remove(folder)
        except (Exception, SystemExit) as exc:  # a user's file may raise anything
            self._forget()
            raise NetworkError(f"{path}: the file failed with {type(exc).__name__}: {without_package(exc)}") from exc

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, of the bytes that ran."""
        return self.digests[self.path]

    def imported(self) -> dict[str, str]:
        """SHA-256 of the other own files whose code ran, by their path relative to the file's folder."""
        return {
            Path(os.path.relpath(path, self.path.parent)).as_posix(): digest
            for path, digest in sorted(self.digests.items())
            if path != self.path and path.is_relative_to(self._root)
        }

    def unchanged(self) -> bool:
        """Whether every own file still has the content that ran."""
        try:
            return all(hashlib.sha256(path.read_bytes()).hexdigest() == sha for path, sha in self.digests.items())
        except OSError:
            return False

    def function(self, name: str) -> Callable[..., Any]:
        """The callable `name` of the file.

        Raises:
            InputError: the file has no such callable.
        """
        function = getattr(self._module, name, None)
        if not callable(function):
            values = vars(self._module).items()
            public = sorted(n for n, value in values if callable(value) and not n.startswith("_"))
            raise InputError(f"{self.path} has no callable {name!r}; it has {', '.join(public) or 'no callables'}")
        result: Callable[..., Any] = function
        return result

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """The specification of an own module, read without a byte-code cache."""
        parent, _, top = name.rpartition(".")
        spec = PathFinder.find_spec(name, self._folders(top) if parent == self.package else path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec

    def _run(self, *, in_package: bool) -> types.ModuleType:
        """The module of the file after it ran."""
        path = self.path.parent if self.path.stem == "__init__" else self.path
        folders = path.relative_to(self._root).parts[:-1] if in_package else ()
        parent = importlib.import_module(".".join((self.package, *folders)))
        name = f"{parent.__name__}.{path.stem}"
        spec = self.find(name, parent.__path__)
        if spec is not None and spec.origin == str(self.path):
            return importlib.import_module(name)
        # Another module has this name, such as a folder, or the name has dots.
        name = f"{parent.__name__}.{self.path.stem.replace('.', '_')}_file"
        spec = importlib.util.spec_from_file_location(name, self.path, loader=_Loader(name, str(self.path)))
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        assert spec.loader is not None
        spec.loader.exec_module(module)
        return module

    def _import(
        self, name: str,
        globals: Mapping[str, object] | None = None, locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (), level: int = 0,
    ) -> types.ModuleType:  # fmt: skip
        """``__import__`` of the user's modules."""
        top = name.partition(".")[0]
        if level == 0 and self._is_own(top):
            module = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
            return module if fromlist else sys.modules[f"{self.package}.{top}"]
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        return self._importlib if module is importlib else module

    def _import_module(self, name: str, package: str | None = None) -> types.ModuleType:
        own = not name.startswith(".") and self._is_own(name.partition(".")[0])
        return importlib.import_module(f"{self.package}.{name}" if own else name, package)

    def _is_own(self, top: str) -> bool:
        """Whether a top-level module is the user's own: in the file's folders, or in folders that the file added."""
        if top not in self._own:
            spec = PathFinder.find_spec(f"{self.package}.{top}", self._folders(top))
            if spec is None:
                return False  # not remembered: the file may yet add a folder
            if spec.origin is None:  # a folder without __init__.py, perhaps of data
                places = [Path(place) for place in spec.submodule_search_locations or ()]
                has_code = any(next(place.glob(pattern), None) for place in places for pattern in ("*.py", "*/*.py"))
                elsewhere = top not in _OURS and (top in sys.modules or PathFinder.find_spec(top) is not None)
                self._own[top] = has_code and not elsewhere
            else:
                self._own[top] = top not in _OURS or not Path(spec.origin).resolve().is_relative_to(_ROOT / top)
        return self._own[top]

    def _folders(self, top: str) -> list[str]:
        """Where an own top-level module may be."""
        # Our packages have been imported already, so the import path is searched for those of the user.
        added = [folder for folder in sys.path if folder not in self._sys_path or top in _OURS]
        return [*sys.modules[self.package].__path__, *(folder for folder in added if Path(folder).resolve() != _ROOT)]

    def _forget(self) -> None:
        for name in [n for n in sys.modules if n == self.package or n.startswith(f"{self.package}.")]:
            del sys.modules[name]
        _by_package.pop(self.package, None)


class _Importlib(types.ModuleType):
    """The module importlib, for a user's file; `import_module` is replaced."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


class _Loader(SourceFileLoader):
    """Runs a module of a user's file with its own builtins, and records the SHA-256 of the code."""

    def get_code(self, fullname: str) -> types.CodeType:
        content = Path(self.path).read_bytes()
        _by_package[fullname.partition(".")[0]].digests[Path(self.path)] = hashlib.sha256(content).hexdigest()
        code: types.CodeType = compile(content, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__builtins__"] = _by_package[module.__name__.partition(".")[0]].builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of users' files, on `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        user = _by_package.get(name.partition(".")[0])
        return None if user is None else user.find(name, path)


sys.meta_path.insert(0, _Finder)


def _relative_levels(path: Path) -> int:
    """The largest number of leading dots in the file's imports."""
    nodes = ast.walk(ast.parse(path.read_bytes(), str(path)))
    return max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)


def _root(folder: Path, levels: int) -> Path:
    """The folder above the package that the file is in; at least `levels` - 1 folders up."""
    while folder != folder.parent and (levels > 1 or (folder / "__init__.py").is_file()):
        folder, levels = folder.parent, levels - 1
    return folder
