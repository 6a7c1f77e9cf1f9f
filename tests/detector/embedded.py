"""Generated features with embeddings, for detectors that use only these and the predicted class."""

import numpy as np

from models.features import Features


def embedded(embeddings: np.ndarray, predicted: np.ndarray | None = None, classes: int = 3) -> Features:
    """Features of N images whose embeddings are as given, ``(N, L, D)``."""
    count = len(embeddings)
    logits = np.zeros((count, classes), dtype=np.float32)
    if predicted is not None:
        logits[np.arange(count), predicted] = 1
    return Features(logits, np.ones((count, 2), dtype=np.float32), {"embeddings": embeddings.astype(np.float32)})


def clusters(rng: np.random.Generator, count: int, *, layers: int = 2, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings, classes) of three classes whose means differ, with columns of different size that go together."""
    labels = np.arange(count) % 3
    means = 2 * np.random.default_rng(7).normal(size=(3, layers, width))
    mixing = np.random.default_rng(8).normal(size=(width, width)) * np.arange(1, width + 1)
    return means[labels] + rng.normal(size=(count, layers, width)) @ mixing, labels


def waves(count: int, layers: int, width: int, pitch: float) -> np.ndarray:
    """Fixed numbers that do not depend on a random generator."""
    return np.sin(pitch * np.arange(1, count * layers * width + 1) ** 1.5).reshape(count, layers, width)
