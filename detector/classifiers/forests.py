"""Random forests in one set of arrays, evaluated together, with the same bits as scikit-learn.

`detector.classifiers.trees` describes the layout, and why the results are exact. As in scikit-learn, the leaf values of
the trees are added in float64, in order, and divided by the number of trees.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from detector.classifiers.trees import MAXIMUM_DEPTH, Trees, concatenated, laid_out
from models.errors import InputError

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

__all__ = ["MAXIMUM_DEPTH", "Forests", "ForestsOnDevice"]


class Forests(Trees):
    """Probabilities of class 1 by several forests of equally many trees over the same columns.

    As `Trees`, with each leaf's share of class 1 as its value, and roots int32 ``(forests, trees)``.
    """

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
        from sklearn.ensemble import RandomForestClassifier

        return cls.from_sklearn(
            [
                RandomForestClassifier(num_trees, random_state=seed, n_jobs=n_jobs).fit(columns, labels)
                for columns, labels in groups
            ]
        )

    @classmethod
    def from_sklearn(cls, forests: Sequence["RandomForestClassifier"]) -> Self:
        """The same forests, fitted by scikit-learn on labels 0 and 1.

        Raises:
            InputError: other labels, different numbers of trees or columns, or trees too deep.
        """
        sizes = {(forest.n_features_in_, len(forest.estimators_)) for forest in forests}
        if len(sizes) != 1 or any(list(forest.classes_) != [0, 1] for forest in forests):
            raise InputError(f"expected forests over labels 0 and 1 of one size, got (columns, trees) {sorted(sizes)}")
        num_columns, num_trees = sizes.pop()
        trees = [estimator.tree_ for forest in forests for estimator in forest.estimators_]
        state = concatenated(
            [
                laid_out(
                    left=tree.children_left, right=tree.children_right,
                    feature=tree.feature, threshold=tree.threshold, value=tree.value[:, 0, 1],
                )
                for tree in trees
            ]
        )  # fmt: skip
        return cls.from_state(state | {"roots": state["roots"].reshape(len(forests), num_trees)}, num_columns)

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_columns: int) -> Self:
        """Forests from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or does not describe trees: children
                out of bounds or not after their parent, a node with no parent or two, columns out of range, thresholds
                not finite, values outside [0, 1], or trees too deep.
        """
        return cls(**cls._checked(state, num_columns, roots=(None, None), values=(0, 1)), num_columns=num_columns)

    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(R,)`` by forest ``which[i]`` of row ``rows[i]`` of columns float32 ``(B, F)``.

        Each equals ``predict_proba(columns)[rows[i], 1]`` of that scikit-learn forest bit for bit, if columns are
        finite.
        """
        # cumsum adds in tree order, as scikit-learn does; sum() adds in pairs, which differs in the last bit.
        totals = np.cumsum(self._reached(columns, rows, self.roots[which].T), axis=0)[-1]
        probability: np.ndarray = totals / self.roots.shape[1]
        return probability

    def on(self, device: str | torch.device) -> "ForestsOnDevice":
        """The same forests as torch tensors on `device`."""
        return ForestsOnDevice(self, device)


class ForestsOnDevice:
    """`Forests` in torch: the same probabilities bit for bit, from columns that are already on the device."""

    def __init__(self, forests: Forests, device: str | torch.device) -> None:
        def placed(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        self._feature, self._left = placed(forests._feature), placed(forests._left)
        self._threshold, self._value = placed(forests._threshold), placed(forests._value)
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
        # No lane is removed: the host would have to wait for the device at every level to know which lanes are at a
        # leaf.
        for _ in range(self._depth):
            node = self._left[node] + (values[self._feature[node] + offset] > self._threshold[node])
        leaves = self._value[node]
        total = leaves[0].clone()
        for leaf in leaves[1:]:  # in tree order; the device's sums have no defined order
            total += leaf
        return total / len(leaves)
