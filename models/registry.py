"""Registry of plug-ins, which are the files of a folder: lists their names, and loads the class or function of a name.

A plug-in is a Python file in a plug-in folder. `attacks/bim.py` is the attack "bim" and exports one class in its
`__all__`; a file in `models/networks/` exports one function per network, and each function's name is the network's.
Listing parses the files and imports nothing, so that `--help` does not import torch.
"""

import ast
import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UnknownNameError
from models.extras import missing_extra

__all__ = [
    "ATTACKS",
    "COMPONENTS",
    "DATASETS",
    "DETECTORS",
    "ENGINES",
    "NETWORKS",
    "OBJECTIVES",
    "RUNNERS",
    "PluginFolder",
]

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class PluginFolder:
    """One kind of plug-in: its package, and how its files are read.

    Args:
        kind: singular noun for messages, such as "attack".
        package: dotted import path of the folder.
        infrastructure: file names (no suffix) in the folder that are not plug-ins.
        many_per_file: whether every name in `__all__` is a plug-in, as for networks; otherwise the file is one plug-in.
    """

    kind: str
    package: str
    infrastructure: frozenset[str] = frozenset()
    many_per_file: bool = False

    def names(self) -> list[str]:
        """Names of all plug-ins, sorted; imports nothing."""
        return sorted(self._index())

    def summaries(self) -> dict[str, str]:
        """First docstring line of every plug-in, by name; imports nothing."""
        return {name: summary for name, (_, _, summary) in sorted(self._index().items())}

    def load(self, name: str) -> Any:
        """The class or function that the plug-in `name` exports.

        Raises:
            UnknownNameError: no such plug-in; the message lists the known ones.
            MissingExtraError: the plug-in needs an optional package that is not installed.
        """
        index = self._index()
        if name not in index:
            near = difflib.get_close_matches(name, index, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownNameError(
                f"expected a known {self.kind}, got {name!r}.{hint} Known: {', '.join(sorted(index))}"
            )
        module, attribute, _ = index[name]
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as exc:
            if missing := missing_extra(exc):
                raise missing from exc
            raise

    def _index(self) -> dict[str, tuple[str, str, str]]:
        """name → (module, attribute, summary)"""
        return {name: entry for path in self._files() for name, entry in self._plugins(path)}

    def _files(self) -> list[Path]:
        folder = _ROOT.joinpath(*self.package.split("."))
        skipped = self.infrastructure | {"base"}
        return [p for p in sorted(folder.glob("*.py")) if p.stem not in skipped and not p.stem.startswith("_")]

    def _plugins(self, path: Path) -> Iterator[tuple[str, tuple[str, str, str]]]:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        exported = _exported_names(tree)
        module = f"{self.package}.{path.stem}"
        if not self.many_per_file:
            assert len(exported) == 1, f"{path} must export exactly one {self.kind} in __all__, exports {exported}"
            yield path.stem, (module, exported[0], _first_line(tree))
            return
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name in exported:
            yield name, (module, name, _first_line(functions.get(name, tree)))


def _exported_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").split("\n", 1)[0]


NETWORKS = PluginFolder("network", "models.networks", many_per_file=True)
OBJECTIVES = PluginFolder("objective", "models.objectives")
DATASETS = PluginFolder("data set", "models.datasets", frozenset({"contents"}))
ATTACKS = PluginFolder("attack", "attacks")
DETECTORS = PluginFolder("detector", "detector.detectors")
COMPONENTS = PluginFolder("component", "detector.components", frozenset({"class_distances"}))
ENGINES = PluginFolder("engine", "models.engines", frozenset({"agreement", "choice", "exporting", "graph"}))
RUNNERS = PluginFolder("runner", "models.runners", frozenset({"packing"}))
