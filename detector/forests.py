"""Many random forests in one set of arrays, evaluated together and bit for bit as scikit-learn would.

Every tree is laid out breadth-first with siblings side by side, so that a step is ``left + (value > threshold)``. All
trees of all rows descend one level at a time. A leaf points at itself and its threshold is +∞ while in use, so lanes
that have arrived stay where they are.

Why this is exact: scikit-learn compares a float32 value with a float64 threshold; rounding the threshold *down* to
float32 changes no such comparison. It then adds the trees' leaf values in float64, in order, and divides by their
number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from detector.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["Forests", "ForestsOnDevice"]

# Deeper trees do not come out of fitting on paths (about 35 levels on 18,000 images), and a depth bounds the time an
# artifact can make us spend.
MAXIMUM_DEPTH = 512


class Forests:
    """Probabilities of class 1 by several forests of equally many trees over the same columns.

    Args:
        feature: column that an inner node looks at, int32 ``(nodes,)``; 0 at leaves.
        threshold: where it divides, float32 ``(nodes,)``; 0 at leaves.
        left: the left child, int32 ``(nodes,)``, with the right one next to it; a leaf's is itself.
        value: share of class 1 at a leaf, float64 ``(nodes,)``; 0 at inner nodes.
        roots: where each tree's nodes start, int32 ``(forests, trees)``, ascending in memory order.
        num_columns: F, columns of the rows to come.
    """

    def __init__(
        self,
        *,
        feature: np.ndarray,
        threshold: np.ndarray,
        left: np.ndarray,
        value: np.ndarray,
        roots: np.ndarray,
        num_columns: int,
    ) -> None:
        self.feature, self.threshold, self.left, self.value = feature, threshold, left, value
        self.roots, self.num_columns = roots, num_columns
        leaf = left == np.arange(len(left))
        self.depth = _depth(left, leaf, roots)
        # Working copies in the types that numpy gathers fastest with.
        self._feature, self._left = feature.astype(np.intp), left.astype(np.intp)
        self._threshold = np.where(leaf, np.float32(np.inf), threshold)

    def __len__(self) -> int:
        return len(self.roots)

    @classmethod
    def fit(
        cls,
        groups: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        num_trees: int = 100,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> Self:
        """One forest per group of columns float32 ``(N, F)`` and labels 0 or 1 ``(N,)``, scikit-learn's defaults."""
        return cls.from_sklearn(
            [
                RandomForestClassifier(num_trees, random_state=seed, n_jobs=n_jobs).fit(columns, labels)
                for columns, labels in groups
            ]
        )

    @classmethod
    def from_sklearn(cls, forests: Sequence[RandomForestClassifier]) -> Self:
        """The same forests, fitted by scikit-learn on labels 0 and 1.

        Raises:
            InputError: other labels, different numbers of trees or columns, or trees too deep.
        """
        sizes = {(forest.n_features_in_, len(forest.estimators_)) for forest in forests}
        if len(sizes) != 1 or any(list(forest.classes_) != [0, 1] for forest in forests):
            raise InputError(f"expected forests over labels 0 and 1 of one size, got (columns, trees) {sorted(sizes)}")
        num_columns, num_trees = sizes.pop()
        parts, starts, start = [], [], 0
        for forest in forests:
            for estimator in forest.estimators_:
                parts.append(_laid_out(estimator.tree_, start))
                starts.append(start)
                start += len(parts[-1][0])
        feature, threshold, left, value = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        roots = np.array(starts, dtype=np.int32).reshape(len(forests), num_trees)
        state = {"feature": feature, "threshold": threshold, "left": left, "value": value, "roots": roots}
        return cls.from_state(state, num_columns)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name; `from_state` takes them back."""
        return {name: getattr(self, name) for name in ("feature", "threshold", "left", "value", "roots")}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_columns: int) -> Self:
        """Forests from arrays that nobody vouches for.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or does not describe trees: children
                out of bounds or not after their parent, a node with no parent or two, columns out of range, thresholds
                not finite, values outside [0, 1], or trees too deep.
        """
        require_keys(state, {"feature", "threshold", "left", "value", "roots"})
        left = require_array(state, "left", np.int32, (None,))
        nodes = len(left)
        feature = require_array(state, "feature", np.int32, (nodes,))
        threshold = require_array(state, "threshold", np.float32, (nodes,))
        value = require_array(state, "value", np.float64, (nodes,))
        roots = require_array(state, "roots", np.int32, (None, None))
        _check_trees(left, roots)
        leaf = left == np.arange(nodes)
        if not ((feature >= 0) & (feature < num_columns)).all():
            raise InputError(
                f"expected trees over columns 0 to {num_columns - 1}, got {feature.min()} to {feature.max()}"
            )
        if not ((value >= 0) & (value <= 1)).all():
            raise InputError(f"expected leaf values in [0, 1], got {value.min()} to {value.max()}")
        if feature[leaf].any() or threshold[leaf].any() or value[~leaf].any():
            raise InputError("expected leaves without a division and inner nodes without a value, got other; damaged")
        return cls(feature=feature, threshold=threshold, left=left, value=value, roots=roots, num_columns=num_columns)

    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(R,)`` by forest ``which[i]`` of row ``rows[i]`` of columns float32 ``(B, F)``.

        Each equals ``predict_proba(columns)[rows[i], 1]`` of that scikit-learn forest to the last bit, if columns are
        finite.
        """
        assert columns.dtype == np.float32
        assert columns.shape[1] == self.num_columns
        num_trees = self.roots.shape[1]
        values = np.ascontiguousarray(columns).ravel()
        # Lanes are ordered by tree, then row: neighbours walk the same tree and share its cache lines.
        node = self.roots[which].T.ravel().astype(np.intp)
        offset = np.tile(rows.astype(np.intp) * self.num_columns, num_trees)
        arrived = np.empty(len(node), dtype=np.intp)
        lane = np.arange(len(node))
        for level in range(1, self.depth + 1):
            column = self._feature.take(node)
            column += offset
            step = self._left.take(node)
            step += values.take(column) > self._threshold.take(node)
            # Dropping the lanes that have arrived costs about as much as a level, so it is done on every fourth.
            if level % 4 == 2 and level > 2:
                walking = np.flatnonzero(step != node)
                if len(walking) < 0.8 * len(step):
                    arrived[lane] = step
                    lane, node, offset = lane.take(walking), step.take(walking), offset.take(walking)
                    continue
            node = step
        arrived[lane] = node
        # A running sum adds in tree order, as scikit-learn does; sum() would add in pairs and differ in the last bit.
        totals = np.cumsum(self.value.take(arrived).reshape(num_trees, len(rows)), axis=0)[-1]
        probability: np.ndarray = totals / num_trees
        return probability

    def on(self, device: str | torch.device) -> "ForestsOnDevice":
        """The same forests as torch tensors on `device`."""
        return ForestsOnDevice(self, device)


class ForestsOnDevice:
    """`Forests` in torch: the same probabilities to the last bit, from columns that are already on the device."""

    def __init__(self, forests: Forests, device: str | torch.device) -> None:
        def placed(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        self._feature, self._left = placed(forests._feature), placed(forests._left)
        self._threshold, self._value = placed(forests._threshold), placed(forests.value)
        self._roots, self._depth = placed(forests.roots.astype(np.int64)), forests.depth
        self.num_columns = forests.num_columns

    @torch.inference_mode()
    def probability(self, columns: Tensor, rows: Tensor, which: Tensor) -> Tensor:
        """As `Forests.probability`, all tensors on the device; `rows` and `which` int64."""
        assert columns.dtype == torch.float32
        assert columns.shape[1] == self.num_columns
        values = columns.reshape(-1)
        node = self._roots[which].T.contiguous()
        offset = rows * self.num_columns
        # No lane is dropped: asking which have arrived would make the host wait for the device at every level.
        for _ in range(self._depth):
            node = self._left[node] + (values[self._feature[node] + offset] > self._threshold[node])
        leaves = self._value[node]
        total = leaves[0].clone()
        for leaf in leaves[1:]:  # in tree order; a device's own sums promise no order
            total += leaf
        return total / len(leaves)


def _laid_out(tree: Any, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(feature, threshold, left, value) of one scikit-learn tree, breadth-first from node `start` on."""
    order, level = [np.zeros(1, dtype=np.intp)], np.zeros(1, dtype=np.intp)
    while len(level):
        inner = level[tree.children_left[level] >= 0]
        level = np.stack([tree.children_left[inner], tree.children_right[inner]], axis=1).ravel()
        order.append(level)
    old = np.concatenate(order)
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    leaf = tree.children_left[old] < 0
    left = np.where(leaf, np.arange(len(old)), new[tree.children_left[old]]) + start
    feature = np.where(leaf, 0, tree.feature[old])
    threshold = np.where(leaf, 0.0, tree.threshold[old])
    value = np.where(leaf, tree.value[old, 0, 1], 0.0)
    return feature.astype(np.int32), _rounded_down(threshold), left.astype(np.int32), value


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _check_trees(left: np.ndarray, roots: np.ndarray) -> None:
    """Raises InputError unless every node but the roots is the child of exactly one earlier node of its own tree."""
    nodes, starts = len(left), roots.ravel().astype(np.int64)
    if not roots.size or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= nodes:
        raise InputError(f"expected trees to start at 0 and then later and later below {nodes}, got other roots")
    index, children = np.arange(nodes), left.astype(np.int64)
    ends = np.repeat(np.append(starts[1:], nodes), np.diff(np.append(starts, nodes)))
    inner = children != index
    if (children[inner] <= index[inner]).any():
        raise InputError("expected children after their parent, got a child at or before it: the tree has a cycle")
    if (children[inner] + 1 >= ends[inner]).any():
        raise InputError("expected children inside their own tree, got one out of range")
    parents = np.zeros(nodes, dtype=np.int64)
    np.add.at(parents, children[inner], 1)
    np.add.at(parents, children[inner] + 1, 1)
    parents[starts] += 1
    if (parents != 1).any():
        raise InputError("expected every node to have exactly one parent, got one with none or several")


def _depth(left: np.ndarray, leaf: np.ndarray, roots: np.ndarray) -> int:
    """Levels below the roots of checked trees."""
    level, depth = roots.ravel().astype(np.int64), 0
    while len(level := level[~leaf[level]]):
        level = np.concatenate([left[level], left[level] + 1])
        depth += 1
        if depth > MAXIMUM_DEPTH:
            raise InputError(f"expected trees of at most {MAXIMUM_DEPTH} levels, got deeper ones")
    return depth
