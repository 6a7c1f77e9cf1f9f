"""The tables on two moons at a tiny size."""

from benchmarks.geometry.circles import moons
from benchmarks.tables.geometry import circles


def test_moons_have_the_rows_of_the_circles_without_published_figures(seed: int) -> None:
    found = moons(2, 1, seed, tables=[21])
    lines = circles(found, "21")
    assert len(lines) == 2 + 3
    for line in lines[2:]:
        cells = line.strip("| ").split(" | ")
        assert cells[3] == cells[6] == "–"
        assert "±" in cells[1]
