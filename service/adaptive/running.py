"""Adaptive attacks on a fitted pipeline, by an attacker who knows the detector (thesis 5.4.5).

    images ─ Carlini-Wagner on the network ─ detected ones ─┬─ black_box          HopSkipJump, "detected" as a class
         │                                    x̃            └─ feature_matching   HopSkipJump on features, equation 42
         ├─ selective, orthogonal   projected gradients on network and margin, L∞ budgets
         ├─ joint                   PGD on all passes: of the network, its companion, and views
         ├─ joint_carlini_wagner    Carlini and Wagner's attack on all passes
         ├─ network                 AutoAttack on the network alone, to compare with
         └─ whole_system            HopSkipJump from natural images on "accepted and wrong"

As in the thesis, `black_box` searches for the image nearest to the detected adversarial one, x̃. Distances from the
natural image are measured afterwards. With `Budgets.around="original"` it searches near the natural image instead.

Each attack runs shard by shard, and finished shards stay in the cache, so that an interrupted run continues there. The
pipeline scores every claimed image again, and only images that pass again count as evaded.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.common.checks import check_images, check_labels
from attacks.common.isolation import evaluation_mode
from detector.pipeline import Pipeline
from service.adaptive.agreement import Agreement
from service.adaptive.caching import STARTS_FROM_FOOLED, AdaptiveCache
from service.adaptive.context import AttackContext, AttackRun
from service.adaptive.decision_attacks import black_box_attack, whole_system_attack
from service.adaptive.descents import DescentKind, Descents
from service.adaptive.feature_matching import FeatureMatching
from service.adaptive.joint import joint_attack, joint_carlini_wagner
from service.adaptive.network_alone import network_attack
from service.adaptive.records import AdaptiveAttacks, AdaptiveSet
from service.adaptive.settings import ADAPTIVE_ATTACKS, AdaptiveSettings
from service.adaptive.sharding import AdaptiveJob, run_in_shards
from service.adaptive.summary import adaptive_figures
from service.adaptive.system import System

__all__ = ["attack_adaptively", "run_adaptive"]

_NO_BUDGET = 1.0  # an L∞ budget without effect, under which a working attack evades nearly always


def run_adaptive(
    pipeline: Pipeline,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    settings: AdaptiveSettings | None = None,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Figures of `attack_adaptively` as JSON values; see `service.adaptive.summary`.

    Args:
        pipeline, images, labels, settings, progress: as in `attack_adaptively`.

    Raises:
        InputError, AttackError: as `attack_adaptively`.
    """
    settings = settings or AdaptiveSettings()
    attacks = attack_adaptively(pipeline, images, labels, settings, progress=progress)
    budgets = settings.budgets
    return {
        "detector": repr(pipeline.detector),
        "decision": settings.decision,
        "ensemble": settings.ensemble,
        "seed": settings.seed,
        "budgets": dataclasses.asdict(budgets),
        **adaptive_figures(attacks, l2_limits=budgets.l2_limits, linf_limits=budgets.linf_limits),
    }


def attack_adaptively(
    pipeline: Pipeline,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    settings: AdaptiveSettings | None = None,
    *,
    progress: bool = True,
) -> AdaptiveAttacks:
    """Run the adaptive attacks on the images.

    HopSkipJump starts from natural images among the given ones, so there should be a few per class. The same arguments
    give the same images on the same machine, also after an interruption. Features without a gradient in the images
    cannot be matched; that attack is skipped, and the warnings name it.

    Args:
        pipeline: a fitted network with detector; its state is restored.
        images: ``(N, 3, H, W)`` float32 in [0, 1], disjoint from the images of fitting and calibration.
        labels: ``(N,)`` int64, the true classes.
        settings: attacks, budgets, decision, cache and seed; None: the defaults.
        progress: whether to show progress bars.

    Raises:
        InputError: images or labels that do not fit, or a decision that the detector cannot make.
        AttackError: an attack failed.
    """
    settings = settings or AdaptiveSettings()
    system = System(
        pipeline,
        decision=settings.decision,
        ensemble=settings.ensemble,
        calibration=settings.calibration,
        batch_size=settings.batch_size,
    )
    natural = torch.as_tensor(images).detach().to(system.device)
    classes = torch.as_tensor(labels).detach().to(system.device)
    check_images(natural)
    check_labels(classes, natural, len(pipeline.classes))
    # The caller may be in inference mode, where no gradients exist.
    with torch.inference_mode(False), evaluation_mode(pipeline.network):
        context = AttackContext(system, natural.clone(), classes.clone(), settings, progress=progress)
        return _run(context, [name for name in ADAPTIVE_ATTACKS if name in settings.attacks])


def _run(context: AttackContext, names: Sequence[str]) -> AdaptiveAttacks:
    """Run the named attacks, one after the other."""
    cache = AdaptiveCache(context)
    matching, descents = FeatureMatching(context), Descents(context, cache)
    skipped = {"feature_matching": why} if "feature_matching" in names and (why := matching.unavailable()) else {}
    names = [name for name in names if name not in skipped]
    sets: list[AdaptiveSet] = []
    unlimited: list[AdaptiveSet] = []
    few_steps: list[AdaptiveSet] = []
    for name in names:
        if name in ("selective", "orthogonal", "joint"):
            budgeted, free, short = _descend(context, cache, descents, name)
            sets += budgeted
            unlimited.append(free)
            few_steps.append(short)
        elif name == "network":
            for epsilon in sorted({size for each in context.budgets.epsilons for size in (each / 2, each)}):
                job = AdaptiveJob(name, context.right, network_attack(context, epsilon), epsilon=epsilon)
                sets.append(run_in_shards(context, cache, job))
        elif name in STARTS_FROM_FOOLED:
            attack: AttackRun = matching if name == "feature_matching" else functools.partial(black_box_attack, context)
            sets.append(run_in_shards(context, cache, AdaptiveJob(name, context.detected, attack)))
        else:
            attack = functools.partial(whole_system_attack if name == "whole_system" else joint_carlini_wagner, context)
            sets.append(run_in_shards(context, cache, AdaptiveJob(name, context.right, attack)))
    surrogate: Agreement | Literal["exact"] | None = None
    if not {"selective", "orthogonal"}.isdisjoint(names):
        surrogate = "exact" if descents.exact else descents.surrogate[1]
    # The surrogate is fitted on Carlini and Wagner's images, too.
    has_fooled = not STARTS_FROM_FOOLED.isdisjoint(names) or isinstance(surrogate, Agreement)
    fooled_linf, fooled_l2 = context.distances(context.fooled) if has_fooled else (None, None)
    return AdaptiveAttacks(
        right=context.right,
        flagged=context.flagged,
        fooled=context.is_fooled if has_fooled else None,
        detected=context.detected if has_fooled else None,
        fooled_linf=fooled_linf,
        fooled_l2=fooled_l2,
        sets=tuple(sets),
        unlimited=tuple(unlimited),
        few_steps=tuple(few_steps),
        surrogate=surrogate,
        skipped=skipped,
    )


def _descend(
    context: AttackContext, cache: AdaptiveCache, descents: Descents, name: str
) -> tuple[list[AdaptiveSet], AdaptiveSet, AdaptiveSet]:
    """Sets of one attack by gradients: for each budget, without a budget, and with few steps at the middle budget."""

    def run(epsilon: float, steps: int) -> AdaptiveSet:
        if name == "joint":
            attack, surrogate = joint_attack(context, epsilon, steps), None
        else:
            attack, surrogate = descents.run(cast(DescentKind, name), epsilon, steps), descents.weights()
        job = AdaptiveJob(name, context.right, attack, epsilon=epsilon, steps=steps, surrogate=surrogate)
        return run_in_shards(context, cache, job)

    steps, epsilons = context.budgets.descent_steps, context.budgets.epsilons
    budgeted = [run(epsilon, steps) for epsilon in epsilons]
    return budgeted, run(_NO_BUDGET, steps), run(epsilons[len(epsilons) // 2], max(1, steps // 4))
