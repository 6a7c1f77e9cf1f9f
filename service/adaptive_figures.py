"""Figures of adaptive attacks as JSON values, and whether they can be believed.

    {"images", "threshold"?, "natural": {"accuracy", "accuracy_interval", "flagged"},
     "carlini_wagner": {"fooled", "detected", "detected_share", "detected_interval", "l2_median"} | null,
     "attacks": {name: {**T, "within": [W]}},                 black_box, feature_matching, whole_system
                {name: {"budgets": [{"epsilon", **T}], "unlimited": T, "few_steps": T, "all_steps": T}},  the others
     "surrogate": "exact" | share | null,
     "robustness": [{"epsilon", "robust", "robust_interval", "implied_epsilon", "sentence"}],
     "warnings": [sentence]}

    T = {"started", "turned", "share", "interval", "lost", "l2_median", "linf_median", "l2_from_fooled_median",
         "queries_median", "gradients_median", + shares of extra flags}
    W = {"norm", "limit", "turned", "share", "interval"}

"share" is of the started images; "turned" is accepted by the pipeline and misclassified. Medians are over turned images
(queries and gradients: over started ones), and null where there are none. Distances are from the natural image, except
the one from Carlini and Wagner's.

HopSkipJump starts from natural images that pass, so it turns nearly all whatever the detector; its shares within a
distance are what tells. "random_start" is the share of images for which one of 100 uniformly random images would have
served as a start: an attack that is left to such starts, as in ART, ends there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import clopper_pearson

if TYPE_CHECKING:
    from service.adaptive import AdaptiveAttacks, AdaptiveSet

__all__ = ["adaptive_figures"]

_NEAR_TOTAL = 0.95  # of images that an attack without a budget has to turn; by chance no fewer than this should resist
_ROUNDING = 1e-6  # float32 pixels carry an image this far out of its L∞ ball


def adaptive_figures(
    found: "AdaptiveAttacks", *, l2_limits: Sequence[float], linf_limits: Sequence[float]
) -> dict[str, Any]:
    """The figures that the module's docstring lists."""
    limits = [("l2", limit) for limit in l2_limits] + [("linf", limit) for limit in linf_limits]
    budgeted = [one for one in found.sets if one.epsilon is not None]
    attacks: dict[str, Any] = {
        one.name: _turned(one) | {"within": _within(one, limits)} for one in found.sets if one.epsilon is None
    }
    for free, short in zip(found.unlimited, found.few_steps, strict=True):
        own = [one for one in budgeted if one.name == free.name]
        same = next(one for one in own if one.epsilon == short.epsilon)
        attacks[free.name] = {
            # Whatever a smaller budget turned, a larger one may use too.
            "budgets": [
                {"epsilon": one.epsilon} | _turned(one, _any(own[: number + 1])) for number, one in enumerate(own)
            ],
            "unlimited": _turned(free),
            "few_steps": _turned(short),
            "all_steps": _turned(same),
        }
    accepted_right = found.right & ~found.flagged
    return {
        "images": len(found.right),
        "natural": {
            **_share("accuracy", found.right.sum(), len(found.right)),
            "flagged": float(found.flagged.mean()),
        },
        "carlini_wagner": _first_attack(found),
        "attacks": attacks,
        "surrogate": found.surrogate,
        "robustness": [
            _robustness(accepted_right, _any([one for one in budgeted if (one.epsilon or 0) <= epsilon]), epsilon)
            for epsilon in sorted({one.epsilon for one in budgeted if one.epsilon is not None})
        ],
        "warnings": _warnings(found),
    }


def _first_attack(found: "AdaptiveAttacks") -> dict[str, Any] | None:
    if found.fooled is None or found.detected is None or found.fooled_l2 is None:
        return None
    fooled = int(found.fooled.sum())
    return {
        "fooled": fooled,
        "detected": int(found.detected.sum()),
        **_share("detected", found.detected.sum(), fooled, share="detected_share"),
        "l2_median": _median(found.fooled_l2[found.fooled]),
    }


def _turned(one: "AdaptiveSet", turned: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """T of the module's docstring; with other images counted as turned where some are given"""
    counted = one.turned if turned is None else turned
    started = int(one.started.sum())
    from_fooled = (
        {} if one.l2_from_fooled is None else {"l2_from_fooled_median": _median(one.l2_from_fooled[one.turned])}
    )
    return {
        "started": started,
        "turned": int(counted.sum()),
        **_shares(counted.sum(), started),
        "lost": int(one.lost.sum()),
        "l2_median": _median(one.l2[one.turned]),
        "linf_median": _median(one.linf[one.turned]),
        **from_fooled,
        "queries_median": _median(one.queries[one.started]),
        "gradients_median": _median(one.gradients[one.started]),
        **{name: float(flags[one.started].mean()) if started else None for name, flags in one.extra.items()},
    }


def _within(one: "AdaptiveSet", limits: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """How many are turned within each distance"""
    counted = []
    for norm, limit in limits:
        near = one.turned & ((one.l2 if norm == "l2" else one.linf) <= limit + _ROUNDING)
        counted.append(
            {"norm": norm, "limit": limit, "turned": int(near.sum()), **_shares(near.sum(), int(one.started.sum()))}
        )
    return counted


def _robustness(accepted_right: NDArray[np.bool_], turned: NDArray[np.bool_], epsilon: float) -> dict[str, Any]:
    """What no attack broke at this budget, and what a classifier would have to be if that were so"""
    count, robust = len(turned), int((accepted_right & ~turned).sum())
    share = _share("robust", robust, count)
    low, high = share["robust_interval"]
    at, half = f"{epsilon * 255:.3g}/255", f"{epsilon * 255 / 2:.3g}/255"
    sentence = (
        f"{robust} of {count} images ({share['robust']:.1%}, 95 % interval {low:.1%} to {high:.1%}) are classified "
        f"rightly and accepted, and these attacks found no accepted misclassification of them within L∞ {at}. Robust "
        "detection at ε implies a robust classifier at ε/2 (Tramèr, 2022): were this so against every attack, there "
        f"would be a classifier that is right on {share['robust']:.1%} of images everywhere within {half}. A figure "
        "far above what classifiers trained to be robust reach at that distance is a sign that the attacks failed, "
        "not that the detector is robust."
    )
    return {"epsilon": epsilon, **share, "implied_epsilon": epsilon / 2, "sentence": sentence}


def _warnings(found: "AdaptiveAttacks") -> list[str]:
    """Signs that an attack is broken, so that its figures say nothing"""
    warnings = [f"{name} was left out: {why}" for name, why in found.left_out.items()]
    for free, short in zip(found.unlimited, found.few_steps, strict=True):
        started, turned = int(free.started.sum()), int(free.turned.sum())
        if turned < _NEAR_TOTAL * started:
            warnings.append(
                f"{free.name} without a budget (ε = 1) turned {turned} of {started} images, where nearly all were "
                "expected: something other than the budget holds the attack up, and its shares are lower bounds only"
            )
        full = next(one for one in found.sets if one.name == free.name and one.epsilon == short.epsilon)
        few, many = int(short.turned.sum()), int(full.turned.sum())
        if few > many:
            warnings.append(
                f"{free.name} turned {few} images with a quarter of the steps and {many} with all of them: more steps "
                "should not be weaker, and its shares are lower bounds only"
            )
    if isinstance(found.surrogate, float) and found.surrogate < 0.9:
        warnings.append(
            f"the surrogate is on the detector's side of the threshold for {found.surrogate:.0%} of attacked images "
            "only: descent follows it into places where the detector says otherwise"
        )
    warnings += [
        f"{one.name}: {int(one.lost.sum())} images passed during the attack but not when judged again, where rounding "
        "decides; they count as not turned"
        for one in found.sets
        if one.lost.any()
    ]
    return warnings


def _any(sets: Sequence["AdaptiveSet"]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = np.logical_or.reduce([one.turned for one in sets])
    return flags


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
