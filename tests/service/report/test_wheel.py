"""The wheel contains the files that the report reads at run time."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("models", "attacks", "detector", "service")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the unpacked wheel in it, built from a copy of the sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=280)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def python(code: str, folder: Path) -> str:
    """What the code prints with only the unpacked wheel on the path."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_published_figures_are_read_from_the_wheel(installed: Path) -> None:
    code = "from service.report.results import published as b; print(b.__file__); print(len(b.read_published()))"
    module, rows = python(code, installed).splitlines()
    assert Path(module).is_relative_to(installed)
    assert int(rows) > 500


def test_templates_are_read_from_the_wheel(installed: Path) -> None:
    code = (
        "from service.report.html.elements import Section; from service.report.html.rendering import render\n"
        "section = Section('provenance', 'Provenance', 'provenance.html.jinja', {'entries': {'a': 1}, 'page': None})\n"
        "print(render('layout.html.jinja', title='t', question='q', sections=[section]))"
    )
    page = python(code, installed)
    assert "<h2>Provenance</h2>" in page
    assert "--series-1:" in page
