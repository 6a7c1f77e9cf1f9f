"""Queries for tests: images near one another, with chosen margins."""

from collections.abc import Iterator

import numpy as np

from service.monitoring.queries.descriptors import Query, Sketcher

SHAPE = (3, 16, 16)


class Source:
    """Queries of images of 16 × 16 pixels with two classes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.sketcher = Sketcher(SHAPE, rng)
        self.base = rng.integers(60, 190, SHAPE)

    def query(self, values: np.ndarray, margin: float, *, flagged: bool = False) -> Query:
        """The query of an image in which class 0 leads by `margin` nats."""
        [query] = self.sketcher.queries([pixels_of(values)], probabilities_of(margin)[None], [flagged])
        return query

    def near(self, values: np.ndarray, deviation: float = 2.0) -> np.ndarray:
        """An image near another one, without rounding that could make them equal."""
        near: np.ndarray = values + self.rng.normal(0, deviation, SHAPE)
        return near

    def unrelated(self) -> np.ndarray:
        """A random image of coarse colours, far from all others."""
        return np.kron(self.rng.integers(0, 256, (3, 2, 2)), np.ones((1, 8, 8), int))

    def search(self, count: int) -> Iterator[tuple[np.ndarray, float]]:
        """Images and margins of a greedy search: each is near the best one so far, and 30 % lower the margin."""
        best, margin = self.base.astype(float), 6.0
        yield best, margin
        for _ in range(count - 1):
            tried = self.near(best, 4)
            if self.rng.random() < 0.3:
                best, margin = np.clip(np.rint(tried), 0, 255), margin - 0.2
                yield best, margin
            else:
                yield tried, margin + abs(self.rng.normal()) + 0.01

    def descent(self, count: int) -> list[Query]:
        """The queries of `search`."""
        return [self.query(*each) for each in self.search(count)]

    def copies(self, count: int, *, margin: float = 6.0) -> list[Query]:
        """Noisy copies of one image with random margins."""
        return [self.query(self.near(self.base), margin + self.rng.normal()) for _ in range(count)]


def pixels_of(values: np.ndarray) -> np.ndarray:
    """Values rounded to 8 bits."""
    pixels: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def probabilities_of(margin: float) -> np.ndarray:
    """Probabilities of two classes, of which the first leads by `margin` nats."""
    return np.array([1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(margin))])
