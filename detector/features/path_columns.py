"""Columns that describe the path of an image, and the differences of a view of the image.

Pure functions of NumPy arrays or torch tensors; differentiable in torch.
"""

from detector.common.array_api import Array, namespace, safe_sqrt
from detector.density.gaussians import Gaussians

__all__ = [
    "class_distances",
    "contrasts",
    "energy",
    "log_sum_exp",
    "logit_columns",
    "output_columns",
    "relative_distances",
    "top_two_classes",
]


def top_two_classes(logits: Array) -> Array:
    """Classes with the largest and second largest logit, int64 ``(N, 2)``; with a single class, that class twice."""
    xp = namespace(logits)
    order = xp.argsort(-logits, axis=1, stable=True)[:, :2]
    return xp.concat([order, order], axis=1) if order.shape[1] == 1 else order


def logit_columns(logits: Array) -> Array:
    """Float64 ``(N, 4)``: margins of first over second and second over third logit, maximum, log-sum-exp.

    Each value x is scaled to sign(x) log10(1 + 1000 |x|), which resolves the small margins of attacked images at a
    class boundary.
    """
    xp = namespace(logits)
    ordered = -xp.sort(-_double(logits), axis=1)[:, :3]
    last = ordered.shape[1] - 1
    first, second, third = (ordered[:, min(rank, last)] for rank in range(3))
    columns = xp.stack([first - second, second - third, first, log_sum_exp(logits)], axis=1)
    return xp.sign(columns) * xp.log10(1 + 1000 * xp.abs(columns))


def log_sum_exp(logits: Array) -> Array:
    """log Σ_k exp(logit_k), float64 ``(N,)``."""
    xp = namespace(logits)
    values = _double(logits)
    largest = xp.max(values, axis=1)
    return largest + xp.log(xp.sum(xp.exp(values - largest[:, None]), axis=1))


def energy(*logits: Array) -> Array:
    """−log Σ_k exp(logit_k), summed over several views, float64 ``(N, 1)`` (Liu, Wang, Owens and Li, 2020)."""
    total = sum(log_sum_exp(each) for each in logits)
    return -total[:, None]


def class_distances(vectors: Array, likeliest: Array, classes: Gaussians, background: Gaussians) -> Array:
    """Squared Mahalanobis distances of vectors ``(N, L, D)``, float64 ``(N, 4·L)``.

    Per layer: to the first and to the second of the likeliest classes ``(N, 2)``, to the nearest class, and to the
    Gaussian of all images. All layers of the first distance come first, then all layers of the next.
    """
    nearest, chosen = classes.distances_to(vectors, likeliest)
    parts = [chosen[:, :, 0], chosen[:, :, 1], nearest, background.distances(vectors)]
    return namespace(vectors).concat(parts, axis=1)


def contrasts(distances: Array) -> Array:
    """Differences of `class_distances` ``(N, 4·L)``: first − second, first − nearest, first − all, nearest − all."""
    layers = distances.shape[1] // 4
    first, second, nearest, background = (distances[:, i * layers : (i + 1) * layers] for i in range(4))
    parts = [first - second, first - nearest, first - background, nearest - background]
    return namespace(distances).concat(parts, axis=1)


def relative_distances(vectors: Array, view_vectors: Array) -> Array:
    """‖v′ − v‖² / ‖v‖² of vectors ``(N, L, D)`` and those of a view, per layer, float64 ``(N, L)``."""
    xp = namespace(vectors)
    own, other = _double(vectors), _double(view_vectors)
    size = xp.clip(xp.sum(xp.square(own), axis=2), min=1e-12)  # a vector can be zero
    return xp.sum(xp.square(other - own), axis=2) / size


def output_columns(logits: Array, view_logits: Array) -> Array:
    """Differences between the outputs for the view and for the image, float64 ``(N, 6)``.

    The largest other logit of the view minus its logit of the image's class, the L2 distance of the two logit vectors,
    the Jensen-Shannon divergence of their probabilities, and the view's margin, maximum and log-sum-exp.
    """
    xp = namespace(logits)
    own, other = _double(logits), _double(view_logits)
    predicted = xp.argmax(own, axis=1)[:, None]
    of_predicted = xp.take_along_axis(other, predicted, axis=1)[:, 0]
    single = own.shape[1] == 1
    is_predicted = xp.arange(own.shape[1], device=own.device)[None, :] == predicted
    rival = of_predicted if single else xp.max(xp.where(is_predicted, -xp.inf, other), axis=1)
    ordered = xp.sort(other, axis=1)
    second = ordered[:, -1 if single else -2]
    parts = [
        rival - of_predicted,
        safe_sqrt(xp.sum(xp.square(other - own), axis=1)),
        _divergence(own, other),
        ordered[:, -1] - second,
        ordered[:, -1],
        log_sum_exp(other),
    ]
    return xp.stack(parts, axis=1)


def _divergence(own: Array, other: Array) -> Array:
    """Jensen-Shannon divergence of two softmax distributions, in nats, float64 ``(N,)``."""
    xp = namespace(own)
    p, q = (xp.exp(each - log_sum_exp(each)[:, None]) for each in (own, other))
    middle = xp.clip((p + q) / 2, min=1e-300)  # a probability can round to 0
    parts = p * xp.log(xp.clip(p, min=1e-300) / middle) + q * xp.log(xp.clip(q, min=1e-300) / middle)
    return xp.sum(parts, axis=1) / 2


def _double(values: Array) -> Array:
    xp = namespace(values)
    return xp.astype(values, xp.float64)
