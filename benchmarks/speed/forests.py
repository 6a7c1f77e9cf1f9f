"""Forest inference beside scikit-learn's, on one core.

For one image (two forests: all-class and its predicted class's) and for 256 images (11 forests: all-class, and each
row's own of ten classes), the ratio of our duration to

    predict_proba   scikit-learn's predict_proba of the same forests on the same rows
    tree_loop       a loop over the trees' own predict, without scikit-learn's checks and threads

Every answer is first compared with scikit-learn's, bit for bit.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier

from benchmarks.common import arguments, paired, write_result
from detector.classifiers.forests import Forests

COLUMNS = 54  # a ResNet-56: 27 blocks, two statistics each
CLASSES = 10
TREES = 100


def fitted_forests(images: int, random: np.random.Generator) -> list[RandomForestClassifier]:
    """The all-class forest and one per class, on columns that overlap enough for deep trees."""
    labels = np.repeat([0, 1], images)
    shift = random.uniform(0, 0.35, size=COLUMNS)
    columns = (random.normal(size=(2 * images, COLUMNS)) + labels[:, None] * shift).astype(np.float32)
    classes = random.integers(CLASSES, size=2 * images)
    chosen = [np.ones(2 * images, dtype=bool), *(classes == k for k in range(CLASSES))]
    return [RandomForestClassifier(TREES, random_state=0).fit(columns[rows], labels[rows]) for rows in chosen]


def by_scikit_learn(forests: list[RandomForestClassifier], columns: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Both votes of every row (2, B), the rows of a class in one call of its forest."""
    votes = np.empty((2, len(columns)))
    votes[0] = forests[0].predict_proba(columns)[:, 1]
    for k in np.unique(own):
        votes[1, own == k] = forests[k].predict_proba(columns[own == k])[:, 1]
    return votes


def by_tree_loop(forests: list[RandomForestClassifier], columns: np.ndarray, own: np.ndarray) -> np.ndarray:
    """As `by_scikit_learn`, tree by tree."""

    def share(forest: RandomForestClassifier, rows: np.ndarray) -> np.ndarray:
        total = np.zeros(len(rows))
        for estimator in forest.estimators_:
            total += estimator.tree_.predict(rows)[:, 1]
        return total / len(forest.estimators_)

    votes = np.empty((2, len(columns)))
    votes[0] = share(forests[0], columns)
    for k in np.unique(own):
        votes[1, own == k] = share(forests[k], columns[own == k])
    return votes


def ours(forests: Forests, columns: np.ndarray, own: np.ndarray) -> np.ndarray:
    rows = np.arange(len(columns))
    which = np.concatenate([np.zeros(len(columns), dtype=np.int64), own])
    return forests.probability(columns, np.concatenate([rows, rows]), which).reshape(2, -1)


def measure(images: int, rounds: int, seed: int) -> dict[str, Any]:
    """Ratios for one row and for 256 rows."""
    random = np.random.default_rng(seed)
    scikit = fitted_forests(images, random)
    forests = Forests.from_sklearn(scikit)
    figures: dict[str, Any] = {"nodes": len(forests.left), "depth": forests.depth}
    for count in (1, 256):
        columns = random.normal(size=(count, COLUMNS)).astype(np.float32)
        own = random.integers(1, CLASSES + 1, size=count)
        if not np.array_equal(ours(forests, columns, own), by_scikit_learn(scikit, columns, own)):
            raise SystemExit(f"the probabilities of {count} rows differ from scikit-learn's")
        for name, reference in (("predict_proba", by_scikit_learn), ("tree_loop", by_tree_loop)):
            timed = paired(
                partial(reference, scikit, columns, own), partial(ours, forests, columns, own), rounds=rounds
            )
            figures[f"rows_{count}_against_{name}"] = timed.to_json()
            print(f"{count:4d} rows, ours ÷ {name}: {timed.ratio:.4f}; ours {timed.second_s * 1000:.3f} ms")
    return figures


def main() -> None:
    parser = arguments(__doc__, rounds=25)
    parser.add_argument("--images", type=int, default=7000, help="images of each kind to fit on (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    payload = {"n": options.images, "seed": options.seed, "trees": TREES, "columns": COLUMNS, "classes": CLASSES}
    print(write_result("forests", payload | measure(options.images, options.rounds, options.seed), options.out))


if __name__ == "__main__":
    main()
