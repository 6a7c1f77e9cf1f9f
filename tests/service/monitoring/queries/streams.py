"""Queries for tests: images near one another, with chosen margins."""

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
        pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        probabilities = np.array([1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(margin))])
        return self.sketcher.query(pixels, probabilities, flagged=flagged)

    def near(self, values: np.ndarray, deviation: float = 2.0) -> np.ndarray:
        """An image near another one, without rounding that could make them equal."""
        near: np.ndarray = values + self.rng.normal(0, deviation, SHAPE)
        return near

    def unrelated(self) -> np.ndarray:
        """A random image of coarse colours, far from all others."""
        return np.kron(self.rng.integers(0, 256, (3, 2, 2)), np.ones((1, 8, 8), int))

    def descent(self, count: int, *, accepted: float = 0.3) -> list[Query]:
        """A greedy search: each query is near the best one so far, and a share of them lowers the margin."""
        best, margin = self.base.astype(float), 6.0
        queries = [self.query(best, margin)]
        for _ in range(count - 1):
            tried = self.near(best, 4)
            if self.rng.random() < accepted:
                best, margin = np.clip(np.rint(tried), 0, 255), margin - 0.2
                queries.append(self.query(best, margin))
            else:
                queries.append(self.query(tried, margin + abs(self.rng.normal()) + 0.01))
        return queries

    def copies(self, count: int, *, margin: float = 6.0) -> list[Query]:
        """Noisy copies of one image with random margins."""
        return [self.query(self.near(self.base), margin + self.rng.normal()) for _ in range(count)]
