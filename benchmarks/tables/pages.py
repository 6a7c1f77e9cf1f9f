"""Write the tables of the pages of results from benchmarks/results.

`python -m benchmarks tables.pages` replaces the text between the markers of a table. A marker names a result, a
function of this package and its arguments:


    <!-- table: cifar10-resnet20-sound matrix detector=transport -->

A name with * stands for all results that match it, [NAME,NAME] for these; the function then takes a mapping. A test
compares the pages with the results.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.tables import (
    adaptive,
    architectures,
    certificates,
    detection,
    geometry,
    goals,
    jobs,
    networks,
    published,
    queries,
    real_images,
    reproduction,
    serving,
    speed,
    training,
    watch,
)

__all__ = ["PAGES", "with_tables"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = tuple(
    path
    for path in sorted(DOCS.rglob("*.md"))
    if re.search(r"^<!-- table: \S+ \w", path.read_text(encoding="utf-8"), re.M)
)
_TABLE = re.compile(r"(?P<begin><!-- table: (?P<words>[^\n]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_MODULES = (
    adaptive,
    architectures,
    certificates,
    detection,
    geometry,
    goals,
    jobs,
    networks,
    published,
    queries,
    real_images,
    reproduction,
    serving,
    speed,
    training,
    watch,
)
_FUNCTIONS: dict[str, Callable[..., list[str]]] = {
    name: getattr(module, name) for module in _MODULES for name in module.__all__
}
_LISTS = ("detectors", "fitted_on", "tables")


def with_tables(text: str) -> str:
    """`text` with every table between markers replaced by the table of the committed results."""

    def replaced(match: re.Match[str]) -> str:
        name, function, *pairs = match["words"].split()
        arguments = {
            key: value.split(",") if key in _LISTS else value for key, value in (p.split("=", 1) for p in pairs)
        }
        lines = _FUNCTIONS[function](_load(name), **arguments)
        return "\n".join([match["begin"], *lines, "", match["end"]])

    return _TABLE.sub(replaced, text)


def _load(name: str) -> dict[str, Any]:
    """The result with this name, or a mapping of several results."""
    if name.startswith("["):
        return {each: _load(each) for each in name.strip("[]").split(",")}
    if "*" in name:
        return {path.stem: _load(path.stem) for path in sorted(RESULTS.glob(f"{name}.json"))}
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def main() -> None:
    """Rewrite the tables of all pages."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
