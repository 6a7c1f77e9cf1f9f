"""Figures of adaptive attacks as JSON values.

    {"images", "threshold"?, "natural": {"accuracy", "accuracy_interval", "flagged"},
     "carlini_wagner": {"fooled", "detected", "detected_share", "detected_interval", "l2_median"} | null,
     "attacks": {name: {**T, "within": [W]}},                 black_box, feature_matching, whole_system
                {name: {"budgets": [{"epsilon", **T}], "unlimited": T, "few_steps": T, "all_steps": T}},  the others;
                                                                        `network` has no checks
     "union": {"attempted", "evaded", "share", "interval", "l2_median", "linf_median", "within": [W]},
     "surrogate": "exact" | {"held_out_originals", "plain_images": S, "descent_on_final_surrogate": S} | null,
     "robustness": [{"epsilon", "robust", "robust_interval", "right_or_flagged", "right_or_flagged_interval",
                     "network", "network_interval", "network_half", "network_half_interval",
                     "implied_epsilon", "sentence"}],
     "warnings": [sentence]}

    T = {"attempted", "evaded", "share", "interval", "not_confirmed", "l2_median", "linf_median",
         "l2_from_fooled_median", "queries_median", "gradients_median", + shares of extra flags}
    W = {"norm", "limit", "evaded", "share", "interval"}
    S = {"flagged", "flagged_alike", "passed", "passed_alike", "balanced", "worse"}

"attempted", "evaded" and "not_confirmed" also appear under their earlier names "started", "turned" and "lost".

An image is evaded if the pipeline accepts it and the network misclassifies it. "share" refers to the attempted images.
Medians are over evaded images (queries and gradients: over attempted ones), and null without any. Distances are from
the natural image, except the one from Carlini and Wagner's image. `black_box` and the first half of `feature_matching`
minimise only the latter.

The figures of an attack count what that attack found. A row of "budgets" also counts what the same attack found within
a smaller budget, with the smallest distance of each image. "union" covers all images that the network classifies
correctly, and all attacks, their checks and Carlini and Wagner's undetected images; it takes the smallest distance of
each image, for L2 and L∞ separately. "robustness" counts the same results, of all images. An image is
"right_or_flagged" if the natural image is classified correctly, and no attack evaded: under each attack, it is right
and accepted, or flagged. Natural images that the network misclassifies count as failures, since attacks do not start
from them.
"network" and "network_half" are the accuracies of the network alone under the attack `network` within epsilon and
epsilon / 2; null if it did not run.

HopSkipJump starts from accepted natural images and therefore evades nearly every detector; the informative figures are
its shares within a distance. "random_start" is the share of images for which at least one of 100 uniformly random
images, drawn for each image, is also a start. An attack that uses random starts only, as in ART, evades on the images
with a random start and fails on all others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import clopper_pearson
from service.adaptive.agreement import Agreement
from service.adaptive.records import FOOLED, AdaptiveAttacks, AdaptiveSet
from service.adaptive.warnings import warnings_of

__all__ = ["adaptive_figures"]

Distances = NDArray[np.float64]
Limits = Sequence[tuple[str, float]]

_EARLIER_NAMES = {"attempted": "started", "evaded": "turned", "not_confirmed": "lost"}  # kept for one version
_ROUNDING = 1e-6  # float32 pixels can leave their L∞ ball by this much


def adaptive_figures(
    attacks: AdaptiveAttacks, *, l2_limits: Sequence[float], linf_limits: Sequence[float]
) -> dict[str, Any]:
    """The figures in the format of this module's docstring.

    Args:
        attacks: results of all attacks.
        l2_limits, linf_limits: distances within which evaded images are counted.
    """
    limits = [("l2", limit) for limit in l2_limits] + [("linf", limit) for limit in linf_limits]
    budgeted = [each for each in attacks.sets if each.epsilon is not None]
    by_name: dict[str, Any] = {
        each.name: _figures(each) | {"within": _within_limits(each, limits)}
        for each in attacks.sets
        if each.epsilon is None
    }
    for name in dict.fromkeys(each.name for each in budgeted):
        own = [each for each in budgeted if each.name == name]
        # An image within a smaller budget is within a larger one, too.
        rows = [{"epsilon": each.epsilon} | _figures(each, own[:number]) for number, each in enumerate(own)]
        by_name[name] = {"budgets": rows}
    for unlimited, few_steps in zip(attacks.unlimited, attacks.few_steps, strict=True):
        own = [each for each in budgeted if each.name == unlimited.name]
        all_steps = next(each for each in own if each.epsilon == few_steps.epsilon)
        by_name[unlimited.name] |= {
            "unlimited": _figures(unlimited),
            "few_steps": _figures(few_steps),
            "all_steps": _figures(all_steps),
        }
    linf, l2 = _smallest_distances(attacks)
    # The attack `network` also runs at half of each budget; the smallest half is not a budget.
    sizes = {each.epsilon: FOOLED in each.extra for each in budgeted if each.epsilon is not None}
    epsilons = sorted({size for size, alone in sizes.items() if not alone or size / 2 in sizes} or set(linf_limits))
    figures = {
        "images": len(attacks.right),
        "natural": {
            **_share("accuracy", attacks.right.sum(), len(attacks.right)),
            "flagged": float(attacks.flagged.mean()),
        },
        "carlini_wagner": _carlini_wagner(attacks),
        "attacks": by_name,
        "union": _union(attacks.right, linf, l2, limits),
        "surrogate": attacks.surrogate.to_json() if isinstance(attacks.surrogate, Agreement) else attacks.surrogate,
        "robustness": [_robustness(attacks, linf <= epsilon + _ROUNDING, epsilon) for epsilon in epsilons],
        "warnings": warnings_of(attacks),
    }
    return {key: _with_earlier_names(value) for key, value in figures.items()}


def _with_earlier_names(value: Any) -> Any:
    """JSON values with every renamed key under its earlier name, too."""
    if isinstance(value, list):
        return [_with_earlier_names(each) for each in value]
    if not isinstance(value, dict):
        return value
    values = {key: _with_earlier_names(each) for key, each in value.items()}
    return values | {earlier: values[key] for key, earlier in _EARLIER_NAMES.items() if key in values}


def _carlini_wagner(attacks: AdaptiveAttacks) -> dict[str, Any] | None:
    if attacks.fooled is None or attacks.detected is None or attacks.fooled_l2 is None:
        return None
    fooled = int(attacks.fooled.sum())
    return {
        "fooled": fooled,
        "detected": int(attacks.detected.sum()),
        **_share("detected", attacks.detected.sum(), fooled, share="detected_share"),
        "l2_median": _median(attacks.fooled_l2[attacks.fooled]),
    }


def _figures(each: AdaptiveSet, smaller: Sequence[AdaptiveSet] = ()) -> dict[str, Any]:
    """T of the module's docstring; also counts what the sets of smaller budgets found."""
    group = (*smaller, each)
    linf, l2 = (_smallest([(one.evaded, getattr(one, norm)) for one in group]) for norm in ("linf", "l2"))
    attempted, evaded = int(each.attempted.sum()), np.isfinite(l2)
    from_fooled = {}
    if each.l2_from_fooled is not None:
        from_fooled["l2_from_fooled_median"] = _median(each.l2_from_fooled[each.evaded])
    return {
        "attempted": attempted,
        "evaded": int(evaded.sum()),
        **_shares(evaded.sum(), attempted),
        "not_confirmed": int(each.not_confirmed.sum()),
        "l2_median": _median(l2[evaded]),
        "linf_median": _median(linf[evaded]),
        **from_fooled,
        "queries_median": _median(each.queries[each.attempted]),
        "gradients_median": _median(each.gradients[each.attempted]),
        **{name: float(flags[each.attempted].mean()) if attempted else None for name, flags in each.extra.items()},
    }


def _union(right: NDArray[np.bool_], linf: Distances, l2: Distances, limits: Limits) -> dict[str, Any]:
    """What any attack found, for images that the network classifies correctly."""
    linf, l2 = linf[right], l2[right]
    attempted, evaded = len(l2), np.isfinite(l2)
    return {
        "attempted": attempted,
        "evaded": int(evaded.sum()),
        **_shares(evaded.sum(), attempted),
        "l2_median": _median(l2[evaded]),
        "linf_median": _median(linf[evaded]),
        "within": _within(linf, l2, attempted, limits),
    }


def _within_limits(each: AdaptiveSet, limits: Limits) -> list[dict[str, Any]]:
    linf, l2 = _smallest([(each.evaded, each.linf)]), _smallest([(each.evaded, each.l2)])
    return _within(linf, l2, int(each.attempted.sum()), limits)


def _smallest_distances(attacks: AdaptiveAttacks) -> tuple[Distances, Distances]:
    """The smallest L∞ and L2 distance ``(N,)`` at which any attack evaded; inf if none did.

    Each norm separately, since the nearest image in one norm may not be the nearest in the other.
    """
    sets = (*attacks.sets, *attacks.unlimited, *attacks.few_steps)
    linf, l2 = [(each.evaded, each.linf) for each in sets], [(each.evaded, each.l2) for each in sets]
    if attacks.fooled is not None:
        assert attacks.detected is not None
        assert attacks.fooled_linf is not None
        assert attacks.fooled_l2 is not None
        linf.append((attacks.fooled & ~attacks.detected, attacks.fooled_linf))
        l2.append((attacks.fooled & ~attacks.detected, attacks.fooled_l2))
    none = (np.zeros(len(attacks.right), np.bool_), np.full(len(attacks.right), np.inf))
    return _smallest([none, *linf]), _smallest([none, *l2])


def _smallest(results: Sequence[tuple[NDArray[np.bool_], Distances]]) -> Distances:
    """The smallest distance ``(N,)`` of several results, each with a mask of its successes; inf without success."""
    smallest: Distances = np.min([np.where(success, distances, np.inf) for success, distances in results], axis=0)
    return smallest


def _within(linf: Distances, l2: Distances, attempted: int, limits: Limits) -> list[dict[str, Any]]:
    """Number of images evaded within each limit, from their distances ``(N,)``, inf where not evaded."""
    counted = []
    for norm, limit in limits:
        near = (l2 if norm == "l2" else linf) <= limit + _ROUNDING
        counted.append({"norm": norm, "limit": limit, "evaded": int(near.sum()), **_shares(near.sum(), attempted)})
    return counted


def _robustness(attacks: AdaptiveAttacks, evaded: NDArray[np.bool_], epsilon: float) -> dict[str, Any]:
    """Shares of images that no attack evaded within epsilon, beside the network alone, and their implication."""
    count, robust = len(evaded), int((attacks.right & ~attacks.flagged & ~evaded).sum())
    share = _share("robust", robust, count)
    safe = _share("right_or_flagged", (attacks.right & ~evaded).sum(), count)
    alone = {**_alone("network", attacks, epsilon), **_alone("network_half", attacks, epsilon / 2)}
    low, high = share["robust_interval"]
    at, half = f"{epsilon * 255:.3g}/255", f"{epsilon * 255 / 2:.3g}/255"
    sentence = (
        f"{robust} of {count} images ({share['robust']:.1%}, 95 % interval {low:.1%} to {high:.1%}) are classified "
        "correctly and accepted, and no attack here found an accepted misclassification of them within L∞ "
        f"{at}. With those that are flagged without an attack, {safe['right_or_flagged']:.1%} are right or flagged. "
    )
    if alone["network"] is not None:
        sentence += f"The network alone is right on {alone['network']:.1%} under AutoAttack within {at}. "
    sentence += (
        "Robust detection at ε implies a robust classifier at ε/2 (Tramèr, 2022): if this were so against every "
        f"attack, there would be a classifier that is correct on {share['robust']:.1%} of images everywhere within "
        f"{half}. A figure far above that of robustly trained classifiers at this distance indicates that the attacks "
        "failed, not that the detector is robust."
    )
    return {"epsilon": epsilon, **share, **safe, **alone, "implied_epsilon": epsilon / 2, "sentence": sentence}


def _alone(name: str, attacks: AdaptiveAttacks, epsilon: float) -> dict[str, Any]:
    """The accuracy of the network alone within epsilon, by the attack `network`; null if it did not run there."""
    own = [each for each in attacks.sets if FOOLED in each.extra and each.epsilon is not None]
    if not any(each.epsilon == epsilon for each in own):
        return {name: None, f"{name}_interval": None}
    fooled = np.logical_or.reduce([each.extra[FOOLED] for each in own if (each.epsilon or 0) <= epsilon])
    return _share(name, (attacks.right & ~fooled).sum(), len(fooled))


def _share(name: str, hits: Any, count: int, share: str | None = None) -> dict[str, Any]:
    values = _shares(hits, count)
    return {share or name: values["share"], f"{name}_interval": values["interval"]}


def _shares(hits: Any, count: int) -> dict[str, Any]:
    """Share and its 95 % interval (Clopper and Pearson); null if the count is 0."""
    if not count:
        return {"share": None, "interval": None}
    interval = clopper_pearson(int(hits), count)
    return {"share": int(hits) / count, "interval": [interval.low, interval.high]}


def _median(values: NDArray[Any]) -> float | None:
    return float(np.median(values)) if len(values) else None
