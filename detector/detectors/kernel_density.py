"""Kernel density of the last embedding within its class, and dropout uncertainty (Feinman et al., 2017)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from detector.base.columns import ColumnsDetector
from detector.common.arrays import require_array, require_keys
from detector.common.options import require_count, require_number
from detector.density.gaussians import MIN_CLASS_IMAGES
from detector.features.dropout import DropoutUncertainty
from detector.features.embeddings import PooledEmbeddings
from models.errors import InputError
from models.features import FeatureRequest, Features

__all__ = ["KernelDensity"]

_EMBEDDINGS = PooledEmbeddings()

# The bandwidth is chosen on this many images per class; all pairs of a class are in memory at once.
_MAX_FOR_BANDWIDTH = 1000


class KernelDensity(ColumnsDetector):
    """Columns: log 1/n Σ_i exp(−‖h − h_i‖² / 2σ²) over the predicted class's reference images, and the uncertainty.

    h is the pooled embedding of the last block. From "Detecting Adversarial Samples from Artifacts" (Feinman, Curtin,
    Shintre and Gardner, 2017), whose classifier is the logistic regression. The outlier score of classifier="none" is
    minus the log density. A class with fewer than five reference images uses those of all classes.

    The second column is `detector.features.dropout.DropoutUncertainty`.

    Args:
        bandwidth: σ; None: the width with the largest leave-one-out likelihood of the reference images, among 41 widths
            from a tenth to ten times the median distance of nearest neighbours in a class. The paper's 1.2, 0.26 and
            1.0 on MNIST, CIFAR-10 and SVHN are from the likelihood, too.
        dropout_rate: share of features that are dropped.
        passes: number of passes with dropout.
        options: see `ColumnsDetector`; `seed` is also that of the dropout.
    """

    needs_reference = True

    bank_: np.ndarray
    starts_: np.ndarray
    bandwidth_: float

    def __init__(
        self,
        *,
        bandwidth: float | None = None,
        dropout_rate: float = 0.5,
        passes: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.bandwidth = bandwidth
        self.dropout_rate = dropout_rate
        self.passes = passes

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.bandwidth is not None:
            require_number("bandwidth", self.bandwidth, least=1e-9, most=1e9)
        require_number("dropout_rate", self.dropout_rate, least=0.0, most=0.99)
        require_count("passes", self.passes, most=1000)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Embeddings, and the uncertainty if there are classifiers."""
        return (_EMBEDDINGS,) if self.classifier == "none" else (_EMBEDDINGS, self._uncertainty())

    def _uncertainty(self) -> DropoutUncertainty:
        return DropoutUncertainty(self.dropout_rate, self.passes, self.seed)

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        count = reference.logits.shape[1]
        # Images of classes that are too small come last, in the range of no class.
        groups = np.where(np.bincount(labels, minlength=count)[labels] < MIN_CLASS_IMAGES, count, labels)
        order = np.argsort(groups, kind="stable")
        self.bank_ = np.ascontiguousarray(reference.requested[_EMBEDDINGS.name][order, -1])
        self.starts_ = np.searchsorted(groups[order], np.arange(count + 1)).astype(np.int64)
        if self.bandwidth is not None:
            self.bandwidth_ = float(self.bandwidth)
        else:
            classes = [self.bank_[first:last] for first, last in zip(self.starts_[:-1], self.starts_[1:], strict=True)]
            self.bandwidth_ = most_likely_bandwidth(classes if self.starts_[-1] else [self.bank_])

    def _log_density(self, features: Features) -> np.ndarray:
        """Float64 ``(B,)``."""
        vectors, predicted = features.requested[_EMBEDDINGS.name][:, -1], features.predicted
        found = np.empty(len(vectors))
        for k in np.unique(predicted):
            mine = np.flatnonzero(predicted == k)
            bank = self.bank_[self.starts_[k] : self.starts_[k + 1]]
            found[mine] = log_density(vectors[mine], bank if len(bank) else self.bank_, self.bandwidth_)
        return found

    def _columns(self, features: Features) -> np.ndarray:
        columns = [self._log_density(features)]
        if self.classifier != "none":
            columns.append(features.requested[self._uncertainty().name][:, 0].astype(np.float64))
        return np.stack(columns, axis=1)

    def _outlier_score(self, features: Features) -> np.ndarray:
        return -self._log_density(features)

    def _reference_state(self) -> dict[str, np.ndarray]:
        return {"bank": self.bank_, "starts": self.starts_, "bandwidth": np.array([self.bandwidth_])}

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        require_keys(state, {"bank", "starts", "bandwidth"})
        bank = require_array(state, "bank", np.float32, (None, None))
        starts = require_array(state, "starts", np.int64, (self.num_classes_ + 1,))
        bandwidth = float(require_array(state, "bandwidth", np.float64, (1,))[0])
        if not bank.size or starts[0] != 0 or starts[-1] > len(bank) or (np.diff(starts) < 0).any():
            raise InputError("expected reference images ordered by class, got other starts; the state is damaged")
        if not 1e-9 <= bandwidth <= 1e9 or (self.bandwidth is not None and bandwidth != self.bandwidth):
            raise InputError(f"expected the bandwidth {self.bandwidth or 'to be positive'}, got {bandwidth}")
        self.bank_, self.starts_, self.bandwidth_ = bank, starts, bandwidth


def log_density(vectors: np.ndarray, bank: np.ndarray, bandwidth: float) -> np.ndarray:
    """log 1/n Σ_i exp(−‖x − b_i‖² / 2σ²), float64 ``(N,)``; without the constant that makes the density one.

    The bits do not depend on N.
    """
    found = np.empty(len(vectors))
    step = max(1, 4 * 2**20 // len(bank))
    for first in range(0, len(vectors), step):
        squares = scipy.spatial.distance.cdist(vectors[first : first + step], bank, "sqeuclidean")
        found[first : first + step] = _log_mean_exp(squares / (-2 * bandwidth**2))
    return found


def most_likely_bandwidth(classes: list[np.ndarray]) -> float:
    """The width with the largest total log density of every image given the others of its class.

    Only classes of at least two images count. It is 1 without such classes, or if all images are equal.
    """
    pairs = []
    for bank in classes:
        if len(bank) > 1:
            squares = scipy.spatial.distance.cdist(bank[:_MAX_FOR_BANDWIDTH], bank[:_MAX_FOR_BANDWIDTH], "sqeuclidean")
            np.fill_diagonal(squares, np.inf)
            pairs.append(squares)
    nearest = np.concatenate([np.sqrt(squares.min(axis=1)) for squares in pairs]) if pairs else np.zeros(1)
    middle = float(np.median(nearest))
    if not 1e-6 < middle < 1e6:
        return 1.0
    widths = middle * np.geomspace(0.1, 10, 41)
    # The normalising constant depends on the width; the zero padding of a narrow embedding does not count.
    dimension = int((np.ptp(np.concatenate(classes), axis=0) > 0).sum())
    likelihoods = [
        sum(float((_log_mean_exp(squares / (-2 * width**2)) - dimension * np.log(width)).sum()) for squares in pairs)
        for width in widths
    ]
    return float(widths[int(np.argmax(likelihoods))])


def _log_mean_exp(exponents: np.ndarray) -> np.ndarray:
    """Of each row of ``(N, n)``, none of which is all −∞."""
    largest = exponents.max(axis=1)
    logs: np.ndarray = largest + np.log(np.exp(exponents - largest[:, None]).mean(axis=1))
    return logs
