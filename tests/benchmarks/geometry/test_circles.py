"""The tables on two moons at a tiny size."""

from benchmarks.geometry.circles import moons
from benchmarks.tables import geometry


def test_moons_have_the_rows_of_the_circles_without_published_figures(seed: int) -> None:
    found = moons(2, 1, seed, tables=[21])
    assert all(row["published"] is None for row in found["tables"][0]["rows"])
    lines = geometry.moons(found)
    assert len(lines) == 2 + 3
    for line in lines[2:]:
        cells = line.strip("| ").split(" | ")
        assert cells[0] == "few data: 50 points"
        assert "±" in cells[2]
