"""Trees over columns in one set of arrays, walked together, each step as scikit-learn would take it.

Every tree is laid out breadth-first with siblings side by side, so that a step is ``left + (value > threshold)``. All
trees of all rows descend one level at a time. A leaf points at itself and its threshold is +∞ while in use, so lanes
that have arrived stay where they are.

Why this is exact: scikit-learn compares a float32 value with a float64 threshold, whether it made the threshold of the
values themselves (forests) or of bins of them (boosting). Rounding the threshold *down* to float32 changes no such
comparison.
"""

from collections.abc import Mapping

import numpy as np

from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["MAXIMUM_DEPTH", "Trees", "concatenated", "laid_out"]

# Deeper trees do not come out of fitting on paths (about 35 levels on 18,000 images), and a depth bounds the time an
# artifact can make us spend.
MAXIMUM_DEPTH = 512

_ARRAYS = ("feature", "threshold", "left", "value", "roots")


class Trees:
    """Trees over the same columns; what their leaves' values mean, a subclass says.

    Args:
        feature: column that an inner node looks at, int32 ``(nodes,)``; 0 at leaves.
        threshold: where it divides, float32 ``(nodes,)``; 0 at leaves.
        left: the left child, int32 ``(nodes,)``, with the right one next to it; a leaf's is itself.
        value: of a leaf, float64 ``(nodes,)``; 0 at inner nodes.
        roots: where each tree's nodes start, int32 of any shape, ascending in memory order.
        num_columns: F, columns of the rows to come.

    Raises:
        InputError: trees too deep.
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

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @staticmethod
    def _checked(
        state: Mapping[str, np.ndarray],
        num_columns: int,
        *,
        roots: tuple[None, ...],
        values: tuple[float, float],
        besides: tuple[str, ...] = (),
    ) -> dict[str, np.ndarray]:
        """The trees' arrays of an untrusted state, with roots of that shape and values in that range.

        Args:
            besides: arrays that the state holds as well, for the subclass to look at.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or does not describe trees: children
                out of bounds or not after their parent, a node with no parent or two, columns out of range, thresholds
                not finite, or values out of range.
        """
        require_keys(state, {*_ARRAYS, *besides})
        left = require_array(state, "left", np.int32, (None,))
        nodes = len(left)
        arrays = {
            "feature": require_array(state, "feature", np.int32, (nodes,)),
            "threshold": require_array(state, "threshold", np.float32, (nodes,)),
            "left": left,
            "value": require_array(state, "value", np.float64, (nodes,)),
            "roots": require_array(state, "roots", np.int32, roots),
        }
        feature, value = arrays["feature"], arrays["value"]
        _check_trees(left, arrays["roots"])
        leaf = left == np.arange(nodes)
        if not ((feature >= 0) & (feature < num_columns)).all():
            raise InputError(
                f"expected trees over columns 0 to {num_columns - 1}, got {feature.min()} to {feature.max()}"
            )
        least, most = values
        if not ((value >= least) & (value <= most)).all():
            raise InputError(f"expected leaf values in [{least:g}, {most:g}], got {value.min()} to {value.max()}")
        if feature[leaf].any() or arrays["threshold"][leaf].any() or value[~leaf].any():
            raise InputError("expected leaves without a division and inner nodes without a value, got other; damaged")
        return arrays

    def _reached(self, columns: np.ndarray, rows: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """Values float64 ``(T, R)`` of the leaves where row ``rows[i]`` of columns float32 ``(B, F)`` arrives from
        each of the nodes ``roots[:, i]``, ``(T, R)``. Columns have to be finite."""
        assert columns.dtype == np.float32
        assert columns.shape[1] == self.num_columns
        values = np.ascontiguousarray(columns).ravel()
        # Lanes are ordered by tree, then row: neighbours walk the same tree and share its cache lines.
        node = roots.ravel().astype(np.intp)
        offset = np.tile(rows.astype(np.intp) * self.num_columns, len(roots))
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
        reached: np.ndarray = self.value.take(arrived).reshape(roots.shape)
        return reached


def laid_out(
    *,
    left: np.ndarray,
    right: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    value: np.ndarray,
) -> dict[str, np.ndarray]:
    """One tree's arrays as `Trees` has them, breadth-first from 0 on, from nodes in any order but the root first.

    Args:
        left, right: children, integers ``(nodes,)``; negative at leaves.
        feature, threshold: of inner nodes, ``(nodes,)``; threshold float64.
        value: of leaves, float64 ``(nodes,)``.
    """
    order, level = [np.zeros(1, dtype=np.intp)], np.zeros(1, dtype=np.intp)
    while len(level):
        inner = level[left[level] >= 0]
        level = np.stack([left[inner], right[inner]], axis=1).ravel()
        order.append(level)
    old = np.concatenate(order)
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    leaf = left[old] < 0
    return {
        "feature": np.where(leaf, 0, feature[old]).astype(np.int32),
        "threshold": _rounded_down(np.where(leaf, 0.0, threshold[old])),
        "left": np.where(leaf, np.arange(len(old)), new[left[old]]).astype(np.int32),
        "value": np.where(leaf, value[old], 0.0),
    }


def concatenated(trees: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of trees laid out one by one as those of all, with roots ``(trees,)``."""
    starts = np.cumsum([0, *(len(tree["left"]) for tree in trees[:-1])]).astype(np.int32)
    moved = [tree | {"left": tree["left"] + start} for tree, start in zip(trees, starts, strict=True)]
    return {name: np.concatenate([tree[name] for tree in moved]) for name in trees[0]} | {"roots": starts}


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64."""
    nearest = threshold.astype(np.float32)
    return np.where(nearest > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _check_trees(left: np.ndarray, roots: np.ndarray) -> None:
    """Raise InputError unless every node but the roots is the child of exactly one earlier node of its own tree."""
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
