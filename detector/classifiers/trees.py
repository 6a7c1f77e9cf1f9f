"""Decision trees in one set of arrays, evaluated together, with exactly the results of scikit-learn.

The nodes of a tree are in breadth-first order and siblings are adjacent, so that the next node is ``left + (value >
threshold)``. A *lane* is one tree with one row; all lanes descend one level at a time. A leaf is its own child and has
the threshold +∞ during evaluation, so a lane that has reached a leaf stays there.

The results are exact because scikit-learn compares a float32 value with a float64 threshold, both in forests and in
boosting. Rounding the threshold *down* to float32 changes no such comparison.
"""

from collections.abc import Mapping

import numpy as np

from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["MAXIMUM_DEPTH", "Trees", "concatenated", "laid_out"]

# Fitted trees have about 35 levels on 18,000 images. The limit bounds the evaluation time of an untrusted artifact.
MAXIMUM_DEPTH = 512

# For at most so many rows, and trees of at most so many nodes on average, all nodes of a tree are decided at once.
_FEW, _SMALL = 4, 64

_ARRAYS = ("feature", "threshold", "left", "value", "roots")


class Trees:
    """Trees over the same columns; a subclass defines the meaning of the leaf values.

    Args:
        feature: column that an inner node compares, int32 ``(nodes,)``; 0 at leaves.
        threshold: of the comparison, float32 ``(nodes,)``; 0 at leaves.
        left: index of the left child, int32 ``(nodes,)``; the right child follows it. A leaf has its own index.
        value: of a leaf, float64 ``(nodes,)``; 0 at inner nodes.
        roots: where each tree's nodes start, int32 of any shape, ascending in memory order.
        num_columns: F, the number of columns of the rows.

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
        # Copies in the dtypes with which NumPy's indexing is fastest, with one more leaf of value 0 at the end.
        self._feature, self._left = np.append(feature, 0).astype(np.intp), np.append(left, len(left)).astype(np.intp)
        self._threshold = np.append(np.where(leaf, np.float32(np.inf), threshold), np.float32(np.inf))
        self._value = np.append(value, 0.0)
        starts = roots.ravel().tolist()
        self._ends = dict(zip([*starts, len(left)], [*starts[1:], len(left), len(left) + 1], strict=True))  # of trees

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
        """The validated arrays of an untrusted state, with roots of that shape and values in that range.

        Args:
            besides: further arrays of the state, which the subclass validates.

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
        """Leaf values float64 ``(T, R)``: entry ``[t, i]`` is that of row ``rows[i]`` from the root ``roots[t, i]``.

        The columns, float32 ``(B, F)``, must be finite.
        """
        assert columns.dtype == np.float32
        assert columns.shape[1] == self.num_columns
        if 1 <= roots.shape[1] <= _FEW and len(self.left) <= _SMALL * self.roots.size:
            return np.stack([self._from(columns[row], roots[:, i]) for i, row in enumerate(rows)], axis=1)
        values = np.ascontiguousarray(columns).ravel()
        # Lanes are ordered by tree, then row: adjacent lanes read the same tree and share its cache lines.
        node = roots.ravel().astype(np.intp)
        offsets = np.empty(roots.shape, dtype=np.intp)
        offsets[:] = rows * self.num_columns
        offset = offsets.ravel()
        arrived = np.empty(len(node), dtype=np.intp)
        lane = np.arange(len(node))
        for level in range(1, self.depth + 1):
            column = self._feature.take(node)
            column += offset
            step = self._left.take(node)
            step += values.take(column) > self._threshold.take(node)
            # Removing the lanes that have reached a leaf costs about as much as a level, so it happens at every fourth
            # level.
            if level % 4 == 2 and 2 < level < self.depth:
                walking = np.flatnonzero(step != node)
                if len(walking) < 0.8 * len(step):
                    arrived[lane] = step
                    lane, node, offset = lane.take(walking), step.take(walking), offset.take(walking)
                    continue
            node = step
        arrived[lane] = node
        reached: np.ndarray = self._value.take(arrived).reshape(roots.shape)
        return reached

    def _from(self, values: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """As `_reached`, of one row: decides all nodes between the roots at once, which takes the fewest calls."""
        first = int(roots[0])
        nodes = slice(first, self._ends[int(roots[-1])])
        steps = self._left[nodes] + (values.take(self._feature[nodes]) > self._threshold[nodes]) - first
        at = roots - first
        for _ in range(self.depth):
            at = steps.take(at)
        reached: np.ndarray = self._value.take(at + first)
        return reached


def laid_out(
    *,
    left: np.ndarray,
    right: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    value: np.ndarray,
) -> dict[str, np.ndarray]:
    """The arrays of one tree in the order of `Trees`, breadth-first from index 0; the first given node is the root.

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
    """The arrays of several trees, each from `laid_out`, as one set of arrays with roots ``(trees,)``."""
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
        raise InputError(f"expected roots that start at 0 and increase below {nodes}, got other roots")
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
