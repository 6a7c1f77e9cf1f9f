"""Source and documentation use the field's terms, in plain technical English."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BANNED = re.compile(
    r"\b(asked|beyond hope|by lot|disputes?|everybody|everyone|full house|judg(e|es|ed|ing|ement)|learnt|lent|nobody"
    r"|stud(y|ies)|surprises?|told|vouch\w*|whoever|whom|wonder\w*)\b",
    re.IGNORECASE,
)
FOLDERS = ("models", "attacks", "detector", "service", "benchmarks", "deploy", "docs")
SUFFIXES = {".html", ".js", ".md", ".py", ".toml", ".yaml"}
# They map the names of protocol 1 to the present ones.
EXEMPT = {Path("detector/artifact/migration.py"), Path("detector/common/former_names.py")}


def _files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    paths = [path.relative_to(ROOT) for path in (*found, ROOT / "README.md")]
    return sorted(path for path in paths if path not in EXEMPT and "__pycache__" not in path.parts)


def test_no_banned_words() -> None:
    lines = [(path, line) for path in _files() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
    assert [f"{path}: {line.strip()}" for path, line in lines if BANNED.search(line)] == []
