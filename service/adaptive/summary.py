"""Figures of adaptive attacks as JSON values, and whether they can be believed.

    {"images", "threshold"?, "natural": {"accuracy", "accuracy_interval", "flagged"},
     "carlini_wagner": {"fooled", "detected", "detected_share", "detected_interval", "l2_median"} | null,
     "attacks": {name: {**T, "within": [W]}},                 black_box, feature_matching, whole_system
                {name: {"budgets": [{"epsilon", **T}], "unlimited": T, "few_steps": T, "all_steps": T}},  the others
     "union": {"attempted", "evaded", "share", "interval", "l2_median", "linf_median", "within": [W]},
     "surrogate": "exact" | {"held_out_originals", "plain_images": S, "descent_on_final_surrogate": S} | null,
     "robustness": [{"epsilon", "robust", "robust_interval", "implied_epsilon", "sentence"}],
     "warnings": [sentence]}

    T = {"attempted", "evaded", "share", "interval", "not_confirmed", "l2_median", "linf_median",
         "l2_from_fooled_median", "queries_median", "gradients_median", + shares of extra flags}
    W = {"norm", "limit", "evaded", "share", "interval"}
    S = {"flagged", "flagged_alike", "passed", "passed_alike", "balanced", "worse"}

"attempted", "evaded" and "not_confirmed" stand there under their earlier names "started", "turned" and "lost" too.

"share" is of the attempted images; "evaded" is accepted by the pipeline and misclassified. Medians are over evaded
images (queries and gradients: over attempted ones), null without any. Distances are from the natural image, except the
one from Carlini and Wagner's; `black_box` and the first half of `feature_matching` make only the latter small.

Each attack's figures are of what that attack found. A row of "budgets" counts what the same attack found in any smaller
budget too, of each image the nearest. "union" is over all that was found of images that the network gets right, by
whatever attack, its checks and Carlini and Wagner's undetected images included: of each image the nearest, for L2 and
L∞ each by itself. "robustness" counts the same finds.

HopSkipJump starts from natural images that pass, so it turns nearly all whatever the detector; its shares within a
distance are what tells. "random_start" is the share of images for which one of 100 uniformly random images would have
served as a start: an attack that is left to such starts, as in ART, ends there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import clopper_pearson
from service.adaptive.agreement import Agreement
from service.adaptive.records import AdaptiveAttacks, AdaptiveSet

__all__ = ["adaptive_figures"]

Distances = NDArray[np.float64]

_NEAR_TOTAL = 0.95  # of images that an attack without a budget has to turn; by chance no fewer than this should resist
_EARLIER_NAMES = {"attempted": "started", "evaded": "turned", "not_confirmed": "lost"}  # kept for one version
_ROUNDING = 1e-6  # float32 pixels carry an image this far out of its L∞ ball


def adaptive_figures(
    found: AdaptiveAttacks, *, l2_limits: Sequence[float], linf_limits: Sequence[float]
) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    limits = [("l2", limit) for limit in l2_limits] + [("linf", limit) for limit in linf_limits]
    budgeted = [one for one in found.sets if one.epsilon is not None]
    attacks: dict[str, Any] = {
        one.name: _turned(one) | {"within": _within_of(one, limits)} for one in found.sets if one.epsilon is None
    }
    for free, short in zip(found.unlimited, found.few_steps, strict=True):
        own = [one for one in budgeted if one.name == free.name]
        same = next(one for one in own if one.epsilon == short.epsilon)
        attacks[free.name] = {
            # Whatever a smaller budget evaded, a larger one may use too.
            "budgets": [{"epsilon": one.epsilon} | _turned(one, own[:number]) for number, one in enumerate(own)],
            "unlimited": _turned(free),
            "few_steps": _turned(short),
            "all_steps": _turned(same),
        }
    accepted_right = found.right & ~found.flagged
    linf, l2 = _nearest_finds(found)
    epsilons = sorted({one.epsilon for one in budgeted if one.epsilon is not None} or set(linf_limits))
    figures = {
        "images": len(found.right),
        "natural": {
            **_share("accuracy", found.right.sum(), len(found.right)),
            "flagged": float(found.flagged.mean()),
        },
        "carlini_wagner": _first_attack(found),
        "attacks": attacks,
        "union": _union(found.right, linf, l2, limits),
        "surrogate": found.surrogate.to_json() if isinstance(found.surrogate, Agreement) else found.surrogate,
        "robustness": [_robustness(accepted_right, linf <= epsilon + _ROUNDING, epsilon) for epsilon in epsilons],
        "warnings": _warnings(found),
    }
    return {key: _with_earlier_names(value) for key, value in figures.items()}


def _with_earlier_names(value: Any) -> Any:
    """JSON values with every renamed key under its earlier name too."""
    if isinstance(value, list):
        return [_with_earlier_names(each) for each in value]
    if not isinstance(value, dict):
        return value
    values = {key: _with_earlier_names(each) for key, each in value.items()}
    return values | {earlier: values[key] for key, earlier in _EARLIER_NAMES.items() if key in values}


def _first_attack(found: AdaptiveAttacks) -> dict[str, Any] | None:
    if found.fooled is None or found.detected is None or found.fooled_l2 is None:
        return None
    fooled = int(found.fooled.sum())
    return {
        "fooled": fooled,
        "detected": int(found.detected.sum()),
        **_share("detected", found.detected.sum(), fooled, share="detected_share"),
        "l2_median": _median(found.fooled_l2[found.fooled]),
    }


def _turned(one: AdaptiveSet, smaller: Sequence[AdaptiveSet] = ()) -> dict[str, Any]:
    """T of the module's docstring; with what was found in smaller budgets counted, where there are some"""
    group = (*smaller, one)
    linf, l2 = (_least([(each.evaded, getattr(each, norm)) for each in group]) for norm in ("linf", "l2"))
    attempted, evaded = int(one.attempted.sum()), np.isfinite(l2)
    from_fooled = (
        {} if one.l2_from_fooled is None else {"l2_from_fooled_median": _median(one.l2_from_fooled[one.evaded])}
    )
    return {
        "attempted": attempted,
        "evaded": int(evaded.sum()),
        **_shares(evaded.sum(), attempted),
        "not_confirmed": int(one.not_confirmed.sum()),
        "l2_median": _median(l2[evaded]),
        "linf_median": _median(linf[evaded]),
        **from_fooled,
        "queries_median": _median(one.queries[one.attempted]),
        "gradients_median": _median(one.gradients[one.attempted]),
        **{name: float(flags[one.attempted].mean()) if attempted else None for name, flags in one.extra.items()},
    }


def _union(right: NDArray[np.bool_], linf: Distances, l2: Distances, limits: Sequence[tuple[str, float]]) -> Any:
    """What was found of images that the network gets right, by any attack"""
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


def _within_of(one: AdaptiveSet, limits: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    linf, l2 = _least([(one.evaded, one.linf)]), _least([(one.evaded, one.l2)])
    return _within(linf, l2, int(one.attempted.sum()), limits)


def _nearest_finds(found: AdaptiveAttacks) -> tuple[Distances, Distances]:
    """L∞ and L2 distances ``(N,)`` of the nearest accepted misclassification that any attack found; inf where none

    In each norm by itself: the nearest in one may not be the nearest in the other.
    """
    sets = (*found.sets, *found.unlimited, *found.few_steps)
    linf, l2 = [(one.evaded, one.linf) for one in sets], [(one.evaded, one.l2) for one in sets]
    if found.fooled is not None:
        assert found.detected is not None
        assert found.fooled_linf is not None
        assert found.fooled_l2 is not None
        linf.append((found.fooled & ~found.detected, found.fooled_linf))
        l2.append((found.fooled & ~found.detected, found.fooled_l2))
    nowhere = np.full(len(found.right), np.inf)
    none = np.zeros(len(found.right), np.bool_)
    return _least([(none, nowhere), *linf]), _least([(none, nowhere), *l2])


def _least(finds: Sequence[tuple[NDArray[np.bool_], Distances]]) -> Distances:
    """The smallest distance ``(N,)`` of several finds, each with where it is one; inf where none is"""
    least: Distances = np.min([np.where(hit, distances, np.inf) for hit, distances in finds], axis=0)
    return least


def _within(
    linf: Distances, l2: Distances, attempted: int, limits: Sequence[tuple[str, float]]
) -> list[dict[str, Any]]:
    """How many are evaded within each distance, of finds at these distances ``(N,)``, inf where there is none"""
    counted = []
    for norm, limit in limits:
        near = (l2 if norm == "l2" else linf) <= limit + _ROUNDING
        counted.append({"norm": norm, "limit": limit, "evaded": int(near.sum()), **_shares(near.sum(), attempted)})
    return counted


def _robustness(accepted_right: NDArray[np.bool_], evaded: NDArray[np.bool_], epsilon: float) -> dict[str, Any]:
    """What nothing broke at this distance, and what a classifier would have to be if nothing could"""
    count, robust = len(evaded), int((accepted_right & ~evaded).sum())
    share = _share("robust", robust, count)
    low, high = share["robust_interval"]
    at, half = f"{epsilon * 255:.3g}/255", f"{epsilon * 255 / 2:.3g}/255"
    sentence = (
        f"{robust} of {count} images ({share['robust']:.1%}, 95 % interval {low:.1%} to {high:.1%}) are classified "
        f"rightly and accepted, and no attack here found an accepted misclassification of them within L∞ {at}. Robust "
        "detection at ε implies a robust classifier at ε/2 (Tramèr, 2022): were this so against every attack, there "
        f"would be a classifier that is right on {share['robust']:.1%} of images everywhere within {half}. A figure "
        "far above what classifiers trained to be robust reach at that distance is a sign that the attacks failed, "
        "not that the detector is robust."
    )
    return {"epsilon": epsilon, **share, "implied_epsilon": epsilon / 2, "sentence": sentence}


def _warnings(found: AdaptiveAttacks) -> list[str]:
    """Signs that an attack is broken, so that its figures say nothing"""
    warnings = [f"{name} was left out: {why}" for name, why in found.skipped.items()]
    for free, short in zip(found.unlimited, found.few_steps, strict=True):
        attempted, evaded = int(free.attempted.sum()), int(free.evaded.sum())
        if evaded < _NEAR_TOTAL * attempted:
            warnings.append(
                f"{free.name} without a budget (ε = 1) evaded {evaded} of {attempted} images, where nearly all were "
                "expected: something other than the budget holds the attack up, and its shares are lower bounds only"
            )
        full = next(one for one in found.sets if one.name == free.name and one.epsilon == short.epsilon)
        few, many = int(short.evaded.sum()), int(full.evaded.sum())
        if few > many:
            warnings.append(
                f"{free.name} evaded {few} images with a quarter of the steps and {many} with all of them: more steps "
                "should not be weaker, and its shares are lower bounds only"
            )
    if isinstance(found.surrogate, Agreement):
        warnings += _warnings_of_surrogate(found.surrogate)
    warnings += [
        f"{what}: {int(one.not_confirmed.sum())} images passed during the attack but not when scored "
        "again, where rounding decides; they count as not evaded"
        for sets, check in ((found.sets, ""), (found.unlimited, ", no budget"), (found.few_steps, ", few steps"))
        for one in sets
        if one.not_confirmed.any()
        for what in [f"{one.name}{check}"]
    ]
    return warnings


def _warnings_of_surrogate(agreement: Agreement) -> list[str]:
    """Where the stand-in that descents follow is no guide to the detector"""
    told = []
    held = f"of {agreement.originals} originals that the surrogate was not fitted on"
    images = (
        ("images as they are, under Carlini and Wagner's attack and under noise,", agreement.plain),
        ("what one selective descent against the final surrogate passes through", agreement.descent),
    )
    for what, sides in images:
        if sides.worse is not None and sides.worse < 0.9:
            told.append(
                f"{what} {held}: on the worse side of the threshold, the surrogate is on the detector's side for "
                f"{sides.worse:.0%} only; descent follows it into places where the detector says otherwise"
            )
        elif sides.balanced is None:
            told.append(
                f"{what} {held}: the detector flagged {sides.flagged} and passed {sides.passed}, so that nothing is "
                "known of the surrogate on one side of the threshold"
            )
    return told


def _share(name: str, hits: Any, count: int, share: str | None = None) -> dict[str, Any]:
    values = _shares(hits, count)
    return {share or name: values["share"], f"{name}_interval": values["interval"]}


def _shares(hits: Any, count: int) -> dict[str, Any]:
    """Share and its 95 % interval (Clopper and Pearson); null where nothing was counted"""
    if not count:
        return {"share": None, "interval": None}
    interval = clopper_pearson(int(hits), count)
    return {"share": int(hits) / count, "interval": [interval.low, interval.high]}


def _median(values: NDArray[Any]) -> float | None:
    return float(np.median(values)) if len(values) else None
