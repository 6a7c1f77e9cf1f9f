"""Columns that describe the path of an image, and the differences of a view of the image.

Pure functions of NumPy arrays or torch tensors; differentiable in torch.
"""

from functools import cached_property

from detector.common.array_api import Array, namespace, safe_sqrt
from detector.density.gaussians import Gaussians

__all__ = [
    "Outputs",
    "class_distances",
    "class_margins",
    "contrasts",
    "energy",
    "logit_columns",
    "output_columns",
    "relative_distances",
]


class Outputs:
    """Logits ``(N, K)``, with values that several functions need and that are computed once."""

    def __init__(self, logits: Array) -> None:
        self.logits = logits

    @cached_property
    def values(self) -> Array:
        """The logits in float64."""
        return _double(self.logits)

    @cached_property
    def top_two_classes(self) -> Array:
        """Classes with the largest and second largest logit, int64 ``(N, 2)``; a single class twice."""
        xp = namespace(self.logits)
        order = xp.argsort(-self.logits, axis=1, stable=True)[:, :2]
        return xp.concat([order, order], axis=1) if order.shape[1] == 1 else order

    @cached_property
    def largest(self) -> tuple[Array, Array, Array]:
        """The three largest logits, float64 ``(N,)`` each; with fewer classes, the smallest logit again."""
        ascending, count = namespace(self.values).sort(self.values, axis=1), self.values.shape[1]
        first, second, third = (ascending[:, max(count - rank, 0)] for rank in (1, 2, 3))
        return first, second, third

    @cached_property
    def log_sum_exp(self) -> Array:
        """log Σ_k exp(logit_k), float64 ``(N,)``."""
        xp, largest = namespace(self.values), self.largest[0]
        return largest + xp.log(xp.sum(xp.exp(self.values - largest[:, None]), axis=1))

    @cached_property
    def probabilities(self) -> Array:
        """The softmax, float64 ``(N, K)``."""
        return namespace(self.values).exp(self.values - self.log_sum_exp[:, None])


def logit_columns(outputs: Outputs) -> Array:
    """Float64 ``(N, 4)``: margins of first over second and second over third logit, maximum, log-sum-exp.

    Each value x is scaled to sign(x) log10(1 + 1000 |x|), which resolves the small margins of attacked images at a
    class boundary.
    """
    first, second, third = outputs.largest
    xp = namespace(first)
    columns = xp.stack([first - second, second - third, first, outputs.log_sum_exp], axis=1)
    return xp.sign(columns) * xp.log10(1 + 1000 * xp.abs(columns))


def class_margins(outputs: Outputs, classes: Array) -> Array:
    """Logit of the given class ``(N,)`` minus the largest other logit, float64 ``(N,)``; with a single class, 0."""
    xp = namespace(outputs.values)
    of_class = xp.take_along_axis(outputs.values, classes[:, None], axis=1)[:, 0]
    first, second, _ = outputs.largest
    return of_class - xp.where(of_class < first, first, second)


def energy(*outputs: Outputs) -> Array:
    """−log Σ_k exp(logit_k), summed over several views, float64 ``(N, 1)`` (Liu, Wang, Owens and Li, 2020)."""
    total = sum(each.log_sum_exp for each in outputs)
    return -total[:, None]


def class_distances(vectors: Array, likeliest: Array, gaussians: Gaussians) -> Array:
    """Squared Mahalanobis distances of vectors ``(N, L, D)``, float64 ``(N, 4·L)``.

    Per layer: to the first and to the second of the likeliest classes ``(N, 2)``, to the nearest class, and to the
    Gaussian of all images, which is the background of `gaussians`. All layers of the first distance come first, then
    all layers of the next.
    """
    every = gaussians.every_distance(vectors, likeliest)
    return namespace(every).reshape(every, (every.shape[0], every.shape[1] * every.shape[2]))


def contrasts(distances: Array) -> Array:
    """Differences of `class_distances` ``(N, 4·L)``: first − second, first − nearest, first − all, nearest − all."""
    layers = distances.shape[1] // 4
    first, second, nearest, background = (distances[:, i * layers : (i + 1) * layers] for i in range(4))
    parts = [first - second, first - nearest, first - background, nearest - background]
    return namespace(distances).concat(parts, axis=1)


def relative_distances(vectors: Array, view_vectors: Array) -> Array:
    """‖v′ − v‖² / ‖v‖² of vectors ``(N, L, D)`` and those of a view, per layer, float64 ``(N, L)``."""
    xp = namespace(vectors)
    own = _double(vectors)
    change = view_vectors - own
    return xp.vecdot(change, change) / xp.maximum(xp.vecdot(own, own), 1e-12)  # a vector can be zero


def output_columns(own: Outputs, other: Outputs) -> Array:
    """Differences between the outputs for the view and for the image, float64 ``(N, 6)``.

    The largest other logit of the view minus its logit of the image's class, the L2 distance of the two logit vectors,
    the Jensen-Shannon divergence of their probabilities, and the view's margin, maximum and log-sum-exp.
    """
    xp = namespace(own.values)
    first, second, _ = other.largest
    change = other.values - own.values
    parts = [
        -class_margins(other, own.top_two_classes[:, 0]),
        safe_sqrt(xp.vecdot(change, change)),
        _divergence(own.probabilities, other.probabilities),
        first - second,
        first,
        other.log_sum_exp,
    ]
    return xp.stack(parts, axis=1)


def _divergence(p: Array, q: Array) -> Array:
    """Jensen-Shannon divergence of two distributions ``(N, K)``, in nats, float64 ``(N,)``."""
    xp = namespace(p)
    middle = xp.maximum((p + q) / 2, 1e-300)  # a probability can round to 0
    parts = p * xp.log(xp.maximum(p, 1e-300) / middle) + q * xp.log(xp.maximum(q, 1e-300) / middle)
    return xp.sum(parts, axis=1) / 2


def _double(values: Array) -> Array:
    xp = namespace(values)
    return xp.astype(values, xp.float64)
