"""Adaptive attacks on a fitted pipeline: who knows of the detector, how often does he pass it? (thesis 5.4.5)

    images ─ Carlini-Wagner on the network ─ detected ones ─┬─ black_box          HopSkipJump with a class "detected"
         │                                    x̃            └─ feature_matching   HopSkipJump on features, equation 42
         ├─ selective, orthogonal   projected gradients on network and surrogate, L∞ budgets
         └─ whole_system            HopSkipJump from natural images on "accepted and wrong"

As in the thesis, `black_box` looks for the image nearest to the detected adversarial one, x̃. Distances from the natural
image are measured afterwards, of whatever came out; `Budgets.around` has it look near the natural image instead.

Each attack works shard by shard, and what is done stays in the cache, so an interrupted run goes on where it was.
Whatever an attack claims is judged once more by the pipeline, and only what passes there counts.
"""

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import build_attack, generate
from attacks.adaptive.attacks import AdaptiveResult, black_box, descend, find_features, match_features, nearest_starts
from attacks.adaptive.surrogate import Surrogate
from attacks.common.base import check_count, check_images, check_labels
from attacks.common.isolation import left_as_found
from attacks.common.norms import perturbation_norms
from attacks.generation.digests import arrays_digest, network_digest
from attacks.generation.store import DamagedShardError, ShardStore
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.pipeline import Pipeline
from models.errors import InputError
from models.features import Features
from models.progress import progress_bar
from service.adaptive.budgets import Budgets
from service.adaptive.summary import adaptive_figures
from service.adaptive.surrogate import Agreement, fitted_surrogate, surrogate_inputs
from service.adaptive.system import Decision, System, predicted_by
from service.cache import code_closure, code_digest

__all__ = ["ADAPTIVE_ATTACKS", "AdaptiveAttacks", "AdaptiveSet", "Budgets", "attack_adaptively", "run_adaptive"]

AdaptiveAttack = Literal["black_box", "feature_matching", "selective", "orthogonal", "whole_system"]
ADAPTIVE_ATTACKS: tuple[AdaptiveAttack, ...] = get_args(AdaptiveAttack)

_FORMAT = 3  # of what is kept on disk; counted up when results change
_FROM_FOOLED = {"black_box", "feature_matching"}  # attacks on Carlini and Wagner's images
_RANDOM_STARTS = 100  # ART's `init_size`: uniform images that its HopSkipJump tries as a start
_EVERYWHERE = 1.0  # an L∞ budget without limit: broken attacks show here

# Beginnings of the names of the budgets that each attack spends.
_HOPS = ("carlini_wagner", "iterations", "evaluations", "first_evaluations", "queries", "around")
_DESCENT = ("carlini_wagner", "descent", "epsilons", "surrogate")
_SPENT = {
    "black_box": _HOPS,
    "feature_matching": (*_HOPS, "matching"),
    "whole_system": _HOPS,
    "selective": _DESCENT,
    "orthogonal": _DESCENT,
    "surrogate": _DESCENT,
}

# Whose source code decides what an attack finds, beside that of the pipeline and of Carlini and Wagner's images.
_CODE = (
    "attacks.decision_based.decision",
    "attacks.common.isolation",
    "attacks.common.norms",
    "attacks.common.steps",
    "attacks.adaptive.surrogate",
    "attacks.decision_based.walk",
    "attacks.adaptive.attacks",
    "service.adaptive.running",
    "service.adaptive.exact",
    "service.adaptive.components",
    "service.adaptive.surrogate",
    "service.adaptive.system",
)
_LEAD = 1e-6  # of a natural image's usual distance from the threshold, that attacks keep from it
_PROBES = 32  # random images beside the natural ones, when it is asked what a score depends on

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AdaptiveSet:
    """What one attack on network and detector made of N images; arrays are in their order.

    Args:
        name: the attack's.
        epsilon: its L∞ budget; None where it looks for a small perturbation.
        images: ``(N, 3, H, W)`` float32 in [0, 1]; the natural image where nothing was found.
        attempted: ``(N,)`` bool, the images that the attack ran on.
        evaded: ``(N,)`` bool, the pipeline accepts the image and the network gets it wrong.
        not_confirmed: ``(N,)`` bool, the attack claimed so, and the pipeline did not when asked again.
        linf, l2: ``(N,)`` float64, distances from the natural image.
        l2_from_fooled: ``(N,)`` float64, distance from Carlini and Wagner's image; None where that was not the start.
        queries, gradients: ``(N,)`` int64, verdicts asked for and backward passes made.
        extra: further flags ``(N,)``, by name.
    """

    name: str
    epsilon: float | None
    images: NDArray[np.float32]
    attempted: NDArray[np.bool_]
    evaded: NDArray[np.bool_]
    not_confirmed: NDArray[np.bool_]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    l2_from_fooled: NDArray[np.float64] | None
    queries: NDArray[np.int64]
    gradients: NDArray[np.int64]
    extra: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class AdaptiveAttacks:
    """All adaptive attacks on the same N images, and what was so before them.

    Args:
        right: ``(N,)`` bool, the network gets the natural image right.
        flagged: ``(N,)`` bool, the natural image is flagged.
        fooled, detected: ``(N,)`` bool, Carlini and Wagner's image of it is a success, and is flagged; None where no
            attack asked for them.
        fooled_linf, fooled_l2: ``(N,)`` float64, its distances from the natural image.
        sets: one per attack, and per budget for those with budgets, rising.
        unlimited: selective and orthogonal descent without a budget, on the same images.
        few_steps: the same at the budget in the middle with a quarter of the steps.
        surrogate: "exact" where the score itself was differentiated, else on how many images of held-out originals its
            stand-in agrees with the detector; None where none was needed.
        left_out: attacks that cannot be run on this detector, and why.
    """

    right: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    fooled: NDArray[np.bool_] | None
    detected: NDArray[np.bool_] | None
    fooled_linf: NDArray[np.float64] | None
    fooled_l2: NDArray[np.float64] | None
    sets: tuple[AdaptiveSet, ...]
    unlimited: tuple[AdaptiveSet, ...]
    few_steps: tuple[AdaptiveSet, ...]
    surrogate: Agreement | Literal["exact"] | None
    skipped_branches: dict[str, str]


def run_adaptive(
    pipeline: Pipeline,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    attacks: Sequence[str] = ADAPTIVE_ATTACKS,
    *,
    budgets: Budgets | None = None,
    decision: Decision = "calibrated",
    ensemble: bool = True,
    calibration: Calibration | None = None,
    cache: Path | None = None,
    batch_size: int = 128,
    shard_size: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """The figures of `attack_adaptively`, as JSON values; see `service.adaptive.summary`. Takes and raises the same."""
    budgets = budgets or Budgets()
    found = attack_adaptively(
        pipeline,
        images,
        labels,
        attacks,
        budgets=budgets,
        decision=decision,
        ensemble=ensemble,
        calibration=calibration,
        cache=cache,
        batch_size=batch_size,
        shard_size=shard_size,
        seed=seed,
        progress=progress,
    )
    figures = adaptive_figures(found, l2_limits=budgets.l2_limits, linf_limits=budgets.linf_limits)
    given = {
        "detector": repr(pipeline.detector),
        "decision": decision,
        "ensemble": ensemble,
        "seed": seed,
        "budgets": dataclasses.asdict(budgets),
    }
    return given | figures


def attack_adaptively(
    pipeline: Pipeline,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    attacks: Sequence[str] = ADAPTIVE_ATTACKS,
    *,
    budgets: Budgets | None = None,
    decision: Decision = "calibrated",
    ensemble: bool = True,
    calibration: Calibration | None = None,
    cache: Path | None = None,
    batch_size: int = 128,
    shard_size: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> AdaptiveAttacks:
    """The images that each adaptive attack made of the given ones.

    Natural images among those given serve as starts for HopSkipJump, so a few per class should be there. The same
    arguments give the same images on the same machine, whether a run was interrupted or not. Features without a
    gradient in the images cannot be matched; that attack is then left out, and the figures' warnings say so.

    Args:
        pipeline: a fitted network with detector; left as found.
        images: ``(N, 3, H, W)`` float32 in [0, 1], that the detector was neither fitted nor calibrated on.
        labels: ``(N,)`` int64, the true classes.
        attacks: which of `ADAPTIVE_ATTACKS`.
        budgets: by default the thesis's.
        decision, ensemble, calibration: by which score an image is flagged; see `System`.
        cache: folder for what is done; None keeps nothing.
        batch_size: images in one forward pass; on CPUs larger ones are slower, not faster.
        shard_size: images that an attack takes at a time, the most that an interruption can cost.

    Raises:
        InputError: an unknown attack, images or labels that do not fit, or a decision that the detector cannot make.
        AttackError: an attack failed.
    """
    if unknown := [name for name in attacks if name not in ADAPTIVE_ATTACKS]:
        raise InputError(f"expected adaptive attacks out of {', '.join(ADAPTIVE_ATTACKS)}, got {', '.join(unknown)}")
    check_count("shard_size", shard_size)
    check_count("seed", seed, least=0, most=2**63 - 1)
    system = System(pipeline, decision=decision, ensemble=ensemble, calibration=calibration, batch_size=batch_size)
    natural = torch.as_tensor(images).detach().to(system.device)
    classes = torch.as_tensor(labels).detach().to(system.device)
    check_images(natural)
    check_labels(classes, natural, len(pipeline.classes))
    # Inference mode would follow the caller in, and gradients are needed.
    with torch.inference_mode(False), left_as_found(pipeline.network):
        run = _Run(system, natural.clone(), classes.clone(), budgets or Budgets(), cache, shard_size, seed, progress)
        return run.attacked([name for name in ADAPTIVE_ATTACKS if name in attacks])


Engine = Callable[[NDArray[np.int64], int], tuple[AdaptiveResult, dict[str, Tensor]]]


class _Run:
    """All attacks of one call: what they share is made once, when the first of them needs it."""

    def __init__(
        self,
        system: System,
        images: Tensor,
        labels: Tensor,
        budgets: Budgets,
        cache: Path | None,
        shard_size: int,
        seed: int,
        progress: bool,
    ) -> None:
        self.system, self.images, self.labels, self.budgets = system, images, labels, budgets
        self.cache, self.shard_size, self.seed, self.progress = cache, shard_size, seed, progress
        self.truth: NDArray[np.int64] = labels.cpu().numpy()
        self.natural = system.features(images)
        margins = system.margins(self.natural)
        self.flagged = margins >= 0
        self.lead = _LEAD * float(np.median(np.abs(margins)))
        self.right = self.natural.predicted == self.truth
        # Starts for attacks by decisions: natural images that pass.
        self.accepted = np.flatnonzero(~self.flagged)

    def attacked(self, names: Sequence[str]) -> AdaptiveAttacks:
        """All sets, attack by attack."""
        sets: list[AdaptiveSet] = []
        unlimited: list[AdaptiveSet] = []
        few_steps: list[AdaptiveSet] = []
        skipped_branches = (
            {"feature_matching": why} if "feature_matching" in names and (why := self._why_not_matched()) else {}
        )
        names = [name for name in names if name not in skipped_branches]
        for name in names:
            if name == "black_box":
                sets.append(self._job(name, self.detected, self._black_box))
            elif name == "feature_matching":
                sets.append(self._job(name, self.detected, self._feature_matching))
            elif name == "whole_system":
                sets.append(self._job(name, self.right, self._whole_system))
            else:
                found, free, short = self._descents(name)
                sets += found
                unlimited.append(free)
                few_steps.append(short)
        surrogate: Agreement | Literal["exact"] | None = None
        if unlimited:
            surrogate = "exact" if self.system.exact_margins is not None else self.surrogate[1]
        has_fooled = bool(_FROM_FOOLED & set(names)) or isinstance(surrogate, Agreement)  # the surrogate's, too
        return AdaptiveAttacks(
            right=self.right,
            flagged=self.flagged,
            fooled=self.is_fooled if has_fooled else None,
            detected=self.detected if has_fooled else None,
            fooled_linf=self._distances(self.fooled)[0] if has_fooled else None,
            fooled_l2=self._distances(self.fooled)[1] if has_fooled else None,
            sets=tuple(sets),
            unlimited=tuple(unlimited),
            few_steps=tuple(few_steps),
            surrogate=surrogate,
            skipped_branches=skipped_branches,
        )

    # --- Carlini and Wagner's images, which two of the attacks begin with

    @functools.cached_property
    def fooled(self) -> Tensor:
        """What Carlini and Wagner's attack on the network alone makes of the images: x̃ of the thesis."""
        attack = build_attack("carlini_wagner", self.budgets.carlini_wagner, where_accepted={"seed": self.seed})
        made = generate(
            self.system.network,
            self.images.cpu(),
            self.labels.cpu(),
            attack,
            cache=self.cache,
            shard_size=self.shard_size,
            device=self.system.device,
            progress=self.progress,
        )
        return torch.from_numpy(made.images).to(self.system.device)

    @functools.cached_property
    def fooled_features(self) -> Any:
        """Features of those."""
        return self.system.features(self.fooled)

    @functools.cached_property
    def is_fooled(self) -> NDArray[np.bool_]:
        """Which of them are successes: the network was right and is wrong now."""
        wrong: NDArray[np.bool_] = self.fooled_features.predicted != self.truth
        fooled: NDArray[np.bool_] = self.right & wrong
        return fooled

    @functools.cached_property
    def detected(self) -> NDArray[np.bool_]:
        """Which of the successes are flagged."""
        return self.is_fooled & (self.system.margins(self.fooled_features) >= 0)

    # --- attacks, each on some rows

    def _black_box(self, rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        reached = self._tensor(self.fooled_features.predicted[rows])
        detected = self.fooled[rows]
        starts, _ = nearest_starts(
            detected,
            self.images[self.accepted],
            reached[:, None] == self._tensor(self.natural.predicted[self.accepted]),
        )
        decide = self._decide(lambda predicted, which: predicted == reached[which])
        found = black_box(
            decide, detected if self.budgets.around == "attacked" else self.images[rows], starts, **self._hops(seed)
        )
        return found, {"random_start": self._random_starts()[reached]}

    def _whole_system(self, rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        labels = self.labels[rows]
        starts, _ = nearest_starts(
            self.images[rows],
            self.images[self.accepted],
            labels[:, None] != self._tensor(self.natural.predicted[self.accepted]),
        )
        decide = self._decide(lambda predicted, which: predicted != labels[which])
        return black_box(decide, self.images[rows], starts, **self._hops(seed)), {}

    def _feature_matching(self, rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        """Features first, with the logits of the detected image; then an image for those that were found."""
        labels, names = self.labels[rows], self.matched_parts
        given = self.system.parts(self.fooled_features.take(rows))
        pool = self.system.parts(self.natural)
        everything = np.concatenate([_columns(pool, names), _columns(self.system.parts(self.fooled_features), names)])
        widths = [given[name].shape[1] for name in names]

        def passes(points: Tensor, which: Tensor) -> Tensor:
            asked = which.cpu().numpy()
            parts = {name: values[asked] for name, values in given.items()}
            split = np.split(points.float().cpu().numpy(), np.cumsum(widths)[:-1], axis=1)
            parts |= dict(zip(names, split, strict=True))
            fooled = predicted_by(parts) != self.truth[rows[asked]]
            return self._tensor((self.system.margins_of(parts) < 0) & fooled)

        reached = self.fooled_features.predicted[rows]
        own_class = reached[:, None] == self.natural.predicted[None, self.accepted]
        if names == ("logits",):  # no class to hold on to but the one that the features themselves say
            own_class = self.truth[rows][:, None] != self.natural.predicted[None, self.accepted]
        low, high = self._tensor(everything.min(0)), self._tensor(everything.max(0))
        extent = torch.where(high > low, high - low, torch.ones_like(low))
        detected, natural = self._tensor(_columns(given, names)), self._tensor(_columns(pool, names)[self.accepted])
        # Near in the scaled box, where the attack measures.
        starts, _ = nearest_starts((detected - low) / extent, (natural - low) / extent, self._tensor(own_class))
        hops = find_features(passes, detected, low + starts * extent, low=low, high=high, **self._hops(seed))

        def forward(points: Tensor) -> tuple[Tensor, Tensor]:
            logits, parts = self.system.forward(points)
            return logits, torch.cat([parts[name] for name in names], dim=1)

        found = hops.evaded.nonzero().squeeze(1)
        images, evaded = self.fooled[rows].clone(), torch.zeros_like(hops.evaded)
        queries, gradients = hops.queries.clone(), torch.zeros_like(hops.queries)
        if len(found):
            natural_spread = _columns(pool, names).std(0)
            spread = self._tensor(np.where(natural_spread > 0, natural_spread, everything.std(0)))
            matched = match_features(
                forward,
                self._decide(lambda predicted, which: predicted != labels[found[which]]),
                self.images[rows][found],
                images[found],
                labels[found],
                hops.images[found],
                scale=torch.where(spread > 0, spread, torch.ones_like(spread)),
                weights=self.budgets.matching_weights,
                distance_weight=self.budgets.matching_distance,
                loss=self.budgets.matching_loss,
                steps=self.budgets.matching_steps,
            )
            images[found], evaded[found] = matched.images, matched.evaded
            queries[found] += matched.queries
            gradients[found] += matched.gradients
        return AdaptiveResult(images, evaded, queries, gradients), {"features_found": hops.evaded}

    def _descents(self, kind: str) -> tuple[list[AdaptiveSet], AdaptiveSet, AdaptiveSet]:
        """Each budget, no budget, and few steps"""
        steps, epsilons = self.budgets.descent_steps, self.budgets.epsilons
        found = [self._descent(kind, epsilon, steps) for epsilon in epsilons]
        free = self._descent(kind, _EVERYWHERE, steps)
        return found, free, self._descent(kind, epsilons[len(epsilons) // 2], max(1, steps // 4))

    def _descent(self, kind: str, epsilon: float, steps: int) -> AdaptiveSet:
        def engine(rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
            labels = self.labels[rows]
            return descend(
                self._margins,
                self._decide(lambda predicted, which: predicted != labels[which]),
                self.images[rows],
                labels,
                kind=cast(Literal["selective", "orthogonal"], kind),
                epsilon=epsilon,
                steps=steps,
                restarts=self.budgets.descent_restarts,
                seed=seed,
            ), {}

        return self._job(kind, self.right, engine, epsilon=epsilon, steps=steps)

    # --- what attacks are given

    def _margins(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the surrogate's margins, or the exact ones"""
        logits, parts = self.system.forward(points)
        if self.system.exact_margins is not None:
            return logits, self.system.exact_margins(parts)
        return logits, self.surrogate[0](surrogate_inputs(parts))

    @functools.cached_property
    def surrogate(self) -> tuple[Surrogate, Agreement]:
        """The stand-in for the detector, and how far it agrees with it on originals that it was not fitted on."""
        store = self._store("surrogate", np.arange(len(self.images)), {})
        kept = _stored(store, 0)
        if kept is not None:
            agreement = Agreement.from_array(kept.pop("agreement"))
            return Surrogate.from_arrays({name: self._tensor(values) for name, values in kept.items()}), agreement
        if self.progress:
            _log.info("fitting a differentiable stand-in for the detector")
        surrogate, agreement = fitted_surrogate(
            self.system, self.images, self.fooled, self.labels, self.budgets, self.seed
        )
        if store is not None:
            weights = {name: values.cpu().numpy() for name, values in surrogate.state_dict().items()}
            store.save(0, weights | {"agreement": agreement.to_array()})
        return surrogate, agreement

    @functools.cached_property
    def matched_parts(self) -> tuple[str, ...]:
        """The parts of the features to be matched: those that the score depends on, logits if there are no others."""
        # Random images too: parts may be exchanged between natural ones of one class, or one image, without a trace.
        shape = (_PROBES, *self.images.shape[1:])
        probes = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)).to(self.images)
        used = self.system.used_parts(Features.concatenated([self.natural, self.system.features(probes)]))
        return tuple(name for name in used if name != "logits") or ("logits",)

    def _why_not_matched(self) -> str | None:
        """A sentence where the features cannot be matched; None where they can"""
        if missing := [name for name in self.matched_parts if name not in self.system.differentiable]:
            name = self.system.pipeline.detector.name
            return f"{name} judges by {', '.join(missing)}, which has no gradient in the images"
        return None

    @functools.cache  # noqa: B019 - the run lives as long as its call
    def _random_starts(self) -> Tensor:
        """``(K,)`` bool: whether some of 100 uniformly random images passes and is predicted as that class."""
        shape = (_RANDOM_STARTS, *self.images.shape[1:])
        images = torch.rand(shape, generator=torch.Generator().manual_seed(self.seed)).to(self.images)
        predicted, flagged = self.system.judge(images)
        passing = np.zeros(len(self.system.pipeline.classes), dtype=np.bool_)
        passing[predicted[~flagged]] = True
        return self._tensor(passing)

    def _decide(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return self.system.decide(wanted, lead=self.lead)

    def _hops(self, seed: int) -> dict[str, Any]:
        return {
            "steps": self.budgets.iterations,
            "max_queries": self.budgets.evaluations,
            "first_queries": min(self.budgets.first_evaluations, self.budgets.evaluations),
            "total_queries": self.budgets.queries,
            "seed": seed,
        }

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.system.device)

    # --- shards

    def _job(
        self, name: str, attempted: NDArray[np.bool_], engine: Engine, *, epsilon: float | None = None, steps: int = 0
    ) -> AdaptiveSet:
        """An attack on the attempted images, shard by shard, from the cache where a shard is there; judged once more"""
        rows = np.flatnonzero(attempted)
        images = self.images.clone()
        claimed = np.zeros(len(attempted), np.bool_)
        queries, gradients = np.zeros((2, len(attempted)), np.int64)
        extra: dict[str, NDArray[np.bool_]] = {}
        store = self._store(name, rows, {"epsilon": epsilon, "steps": steps})
        label = name if epsilon is None else f"{name} {epsilon * 255:.3g}/255"
        with progress_bar(total=len(rows), what=label, unit="image", show=self.progress) as bar:
            for index, first in enumerate(range(0, len(rows), self.shard_size)):
                part = rows[first : first + self.shard_size]
                shard = _stored(store, index)
                if shard is None:
                    shard = self._shard(engine, name, part, index)
                    if store is not None:
                        store.save(index, shard)
                evaded = shard["evaded"]
                claimed[part], queries[part], gradients[part] = evaded, shard["queries"], shard["gradients"]
                images[part[evaded]] = self._tensor(shard["images"][evaded])
                for key in shard.keys() - {"images", "evaded", "queries", "gradients"}:
                    extra.setdefault(key, np.zeros(len(attempted), np.bool_))[part] = shard[key]
                bar.update(len(part))
        predicted, flagged = self.system.judge(images)
        evaded = claimed & (predicted != self.truth) & ~flagged
        linf, l2 = self._distances(images)
        return AdaptiveSet(
            name=name,
            epsilon=epsilon,
            images=images.cpu().numpy(),
            attempted=attempted,
            evaded=evaded,
            not_confirmed=claimed & ~evaded,
            linf=linf,
            l2=l2,
            l2_from_fooled=_l2(self.fooled, images) if name in _FROM_FOOLED else None,
            queries=queries,
            gradients=gradients,
            extra=extra,
        )

    def _shard(self, engine: Engine, name: str, rows: NDArray[np.int64], index: int) -> dict[str, NDArray[Any]]:
        # 32 bits of a hash, so that neither attacks nor shards share their noise.
        entropy = [self.seed, ADAPTIVE_ATTACKS.index(cast(AdaptiveAttack, name)), index]
        found, flags = engine(rows, int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        assert found.images.shape == self.images[rows].shape
        arrays = {
            "images": found.images,
            "evaded": found.evaded,
            "queries": found.queries,
            "gradients": found.gradients,
        }
        return {key: values.detach().cpu().numpy() for key, values in (arrays | flags).items()}

    def _store(self, name: str, rows: NDArray[np.int64], options: dict[str, Any]) -> ShardStore | None:
        if self.cache is None:
            return None
        budgets = dataclasses.asdict(self.budgets)
        # Only what the attack spends: others' budgets may change without its work being lost.
        own = {field: value for field, value in budgets.items() if field.startswith(_SPENT[name])}
        key = self._key | {"rows": arrays_digest({"rows": rows}), "budgets": own} | options
        if name in (*_FROM_FOOLED, "surrogate"):
            key["fooled"] = arrays_digest({"images": self.fooled.cpu().numpy()})
        elif name != "whole_system" and self.system.exact_margins is None:
            weights = {part: values.cpu().numpy() for part, values in self.surrogate[0].state_dict().items()}
            key["surrogate"] = arrays_digest(weights)
        return ShardStore(Path(self.cache), f"adaptive-{name}", key)

    @functools.cached_property
    def _key(self) -> dict[str, Any]:
        """Everything that all attacks' results hang on, as JSON values"""
        detector, statistics_spec = self.system.pipeline.detector, self.system.pipeline.statistics_spec
        return {
            "format": _FORMAT,
            "code": [code_digest(*_CODE), _code_of_pipeline(detector)],
            "network": network_digest(self.system.network),
            "branches": [branch.name for branch in self.system.pipeline.discovery.branches],
            "measure": statistics_spec.to_json(),
            "detector": {"name": detector.name, "parameters": detector.parameters()},
            "state": arrays_digest(detector.state()),
            "threshold": self.system.threshold,
            "ensemble": self.system.ensemble,
            "images": arrays_digest({"images": self.images.cpu().numpy(), "labels": self.truth}),
            "batch_size": self.system.batch_size,
            "shard_size": self.shard_size,
            "seed": self.seed,
            "torch": torch.__version__,
            "device": str(self.system.device),
        }

    def _distances(self, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        linf, l2 = perturbation_norms(self.images, images)
        return linf.cpu().numpy(), l2.cpu().numpy()


def _l2(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = perturbation_norms(first, second)[1].cpu().numpy()
    return distances


def _code_of_pipeline(detector: Detector) -> list[str]:
    """Digests of the source code of what turns images into verdicts"""
    own = type(detector).__module__
    # A script or an interpreter's session has no name that it could be found by.
    found = code_closure(own) if getattr(sys.modules[own], "__spec__", None) is not None else own
    return [code_closure("detector.pipeline"), found]


def _columns(parts: dict[str, NDArray[np.float32]], names: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([parts[name] for name in names], axis=1)


def _stored(store: ShardStore | None, index: int) -> dict[str, NDArray[Any]] | None:
    """A shard from disk; None where it is to be made"""
    if store is None:
        return None
    try:
        return store.load(index)
    except DamagedShardError as exc:
        _log.warning("%s; this shard is attacked again", exc)
        return None
