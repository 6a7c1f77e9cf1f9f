"""Several support vector machines with probabilities, as plain arrays."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import scipy

from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["FOLDS", "SupportVectorMachines"]

FOLDS = 5


class SupportVectorMachines:
    """Probabilities of class 1 by several support vector machines over the same columns.

    Each standardises its columns and has the kernel exp(−‖x − s‖² / F). Platt's 1 / (1 + exp(slope·d + offset))
    converts its decision d to a probability. It is fitted by cross-validation, since decisions for training images are
    overconfident. A natural image and its attacked copy may be in different folds; their labels differ, so this makes
    the probabilities less extreme, not more.

    Args:
        mean, scale: float64 ``(machines, F)``.
        support: standardised support vectors of all machines, one after the other, float64 ``(S, F)``.
        starts: index of each machine's first vector, followed by the number of vectors, int64 ``(machines + 1,)``.
        dual: signed multipliers, float64 ``(S,)``.
        bias, slope, offset: float64 ``(machines,)``.
    """

    def __init__(
        self,
        *,
        mean: np.ndarray,
        scale: np.ndarray,
        support: np.ndarray,
        starts: np.ndarray,
        dual: np.ndarray,
        bias: np.ndarray,
        slope: np.ndarray,
        offset: np.ndarray,
    ) -> None:
        self.mean, self.scale, self.support, self.starts = mean, scale, support, starts
        self.dual, self.bias, self.slope, self.offset = dual, bias, slope, offset

    def __len__(self) -> int:
        return len(self.bias)

    @classmethod
    def fit(cls, groups: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0, n_jobs: int | None = None) -> Self:
        """One machine per group of columns ``(N, F)`` and labels 0 or 1 ``(N,)``.

        Time grows with the square of N: minutes for 20,000 images.

        Raises:
            InputError: a group with fewer than `FOLDS` images of a kind.
        """
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.model_selection import StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        machines, calibrators = [], []
        for columns, labels in groups:
            if min(np.bincount(labels, minlength=2)) < FOLDS:
                raise InputError(f"expected at least {FOLDS} images of each kind for an SVM, got {np.bincount(labels)}")
            machine = make_pipeline(StandardScaler(), SVC(gamma=1 / columns.shape[1]))
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            fitted = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=folds, n_jobs=n_jobs).fit(
                columns.astype(np.float64), labels
            )
            machines.append(fitted.calibrated_classifiers_[0].estimator)
            calibrators.append(fitted.calibrated_classifiers_[0].calibrators[0])
        return cls(
            mean=np.stack([machine[0].mean_ for machine in machines]),
            scale=np.stack([machine[0].scale_ for machine in machines]),
            support=np.concatenate([machine[1].support_vectors_ for machine in machines]),
            starts=np.cumsum([0, *(len(machine[1].support_vectors_) for machine in machines)]).astype(np.int64),
            dual=np.concatenate([machine[1].dual_coef_[0] for machine in machines]),
            bias=np.array([machine[1].intercept_[0] for machine in machines]),
            slope=np.array([calibrator.a_ for calibrator in calibrators], dtype=np.float64),
            offset=np.array([calibrator.b_ for calibrator in calibrators], dtype=np.float64),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_columns: int) -> Self:
        """Machines from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or out of range.
        """
        require_keys(state, set(_NAMES))
        bias = require_array(state, "bias", np.float64, (None,))
        count = len(bias)
        support = require_array(state, "support", np.float64, (None, num_columns))
        starts = require_array(state, "starts", np.int64, (count + 1,))
        if not count or starts[0] != 0 or starts[-1] != len(support) or (np.diff(starts) <= 0).any():
            raise InputError("expected at least one support vector per machine, got other starts; the state is damaged")
        scale = require_array(state, "scale", np.float64, (count, num_columns))
        if not (scale > 0).all():
            raise InputError(f"expected positive scales, got {scale.min()}")
        return cls(
            mean=require_array(state, "mean", np.float64, (count, num_columns)),
            scale=scale,
            support=support,
            starts=starts,
            dual=require_array(state, "dual", np.float64, (len(support),)),
            bias=bias,
            slope=require_array(state, "slope", np.float64, (count,)),
            offset=require_array(state, "offset", np.float64, (count,)),
        )

    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(R,)`` by machine ``which[i]`` of row ``rows[i]`` of columns ``(B, F)``."""
        standard = (columns[rows].astype(np.float64) - self.mean[which]) / self.scale[which]
        decision = np.empty(len(rows))
        for machine in np.unique(which):
            own, mine = slice(*self.starts[machine : machine + 2]), np.flatnonzero(which == machine)
            kernel = np.exp(
                scipy.spatial.distance.cdist(standard[mine], self.support[own], "sqeuclidean") / -columns.shape[1]
            )
            # Summed row by row: the order of addition of a matrix product depends on the batch.
            decision[mine] = (kernel * self.dual[own]).sum(axis=1) + self.bias[machine]
        probability: np.ndarray = scipy.special.expit(-(self.slope[which] * decision + self.offset[which]))
        return probability


_NAMES = ("mean", "scale", "support", "starts", "dual", "bias", "slope", "offset")
