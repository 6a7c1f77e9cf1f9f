"""Cache of adaptive attacks: a folder of shards per attack, under a key of everything that decides its result."""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.common.digests import arrays_digest, network_digest
from attacks.generation.store import ShardStore
from detector.base.detector import Detector
from service.adaptive.context import AttackContext
from service.cache import code_closure, code_digest

__all__ = ["STARTS_FROM_FOOLED", "AdaptiveCache"]

STARTS_FROM_FOOLED = frozenset({"black_box", "feature_matching"})  # attacks on Carlini and Wagner's images

_FORMAT = 4  # of the files; increase it when their content changes

# Prefixes of the names of the budgets that each attack uses.
_HOPS = ("carlini_wagner", "iterations", "evaluations", "first_evaluations", "queries", "around")
_DESCENT = ("carlini_wagner", "descent", "epsilons", "surrogate")
_USED_BUDGETS = {
    "black_box": _HOPS,
    "feature_matching": (*_HOPS, "matching"),
    "whole_system": _HOPS,
    "selective": _DESCENT,
    "orthogonal": _DESCENT,
    "surrogate": _DESCENT,
    "joint": ("descent", "epsilons"),
    "joint_carlini_wagner": ("carlini_wagner",),
    "network": (),
}

# Modules whose source code decides the results, beside those of the pipeline and of Carlini and Wagner's attack.
_CODE = (
    "attacks.adaptive",
    "attacks.autoattack",
    "attacks.common.finite",
    "attacks.common.isolation",
    "attacks.common.margins",
    "attacks.common.noise",
    "attacks.common.norms",
    "attacks.common.steps",
    "attacks.decision_based.hop_skip_jump",
    "attacks.decision_based.search",
    "attacks.libraries.autoattack",
    "attacks.pgd",
    "service.adaptive.caching",
    "service.adaptive.components",
    "service.adaptive.context",
    "service.adaptive.decision_attacks",
    "service.adaptive.descents",
    "service.adaptive.exact",
    "service.adaptive.feature_matching",
    "service.adaptive.joint",
    "service.adaptive.network_alone",
    "service.adaptive.running",
    "service.adaptive.sharding",
    "service.adaptive.surrogate",
    "service.adaptive.system",
)


class AdaptiveCache:
    """Stores of the attacks of one context."""

    def __init__(self, context: AttackContext) -> None:
        self._context = context

    def store(
        self,
        name: str,
        rows: NDArray[np.int64],
        options: Mapping[str, Any],
        surrogate: Mapping[str, NDArray[Any]] | None = None,
    ) -> ShardStore | None:
        """The folder of one attack's shards; None without a cache.

        Args:
            name: of the attack, or "surrogate".
            rows: the images that the attack runs on.
            options: of the attack, beside the budgets, as JSON values.
            surrogate: weights of the surrogate, if the attack follows one.
        """
        folder = self._context.settings.cache
        if folder is None:
            return None
        budgets = dataclasses.asdict(self._context.budgets)
        # Other attacks' budgets are left out, so that a change of them does not invalidate these shards.
        used = {field: value for field, value in budgets.items() if field.startswith(_USED_BUDGETS[name])}
        key = self._key | {"rows": arrays_digest({"rows": rows}), "budgets": used} | dict(options)
        if name in STARTS_FROM_FOOLED or name == "surrogate":
            key["fooled"] = arrays_digest({"images": self._context.fooled.cpu().numpy()})
        if surrogate is not None:
            key["surrogate"] = arrays_digest(surrogate)
        return ShardStore(Path(folder), f"adaptive-{name}", key)

    @functools.cached_property
    def _key(self) -> dict[str, Any]:
        """Everything that decides the results of all attacks, as JSON values."""
        context, pipeline = self._context, self._context.system.pipeline
        detector = pipeline.detector
        return {
            "format": _FORMAT,
            "code": [code_digest(*_CODE), _code_of_pipeline(detector)],
            "network": network_digest(context.system.network),
            **({} if pipeline.companion is None else {"companion": network_digest(pipeline.companion)}),
            "branches": [branch.name for branch in pipeline.discovery.branches],
            "measure": pipeline.statistics_spec.to_json(),
            "detector": {"name": detector.name, "parameters": detector.parameters()},
            "state": arrays_digest(detector.state()),
            "threshold": context.system.threshold,
            "ensemble": context.system.ensemble,
            "images": arrays_digest({"images": context.images.cpu().numpy(), "labels": context.truth}),
            "batch_size": context.system.batch_size,
            "shard_size": context.settings.shard_size,
            "seed": context.settings.seed,
            "torch": torch.__version__,
            "device": str(context.system.device),
        }


def _code_of_pipeline(detector: Detector) -> list[str]:
    """Digests of the source code that computes verdicts from images."""
    own = type(detector).__module__
    # A script or an interactive session has no importable name.
    closure = code_closure(own) if getattr(sys.modules[own], "__spec__", None) is not None else own
    return [code_closure("detector.pipeline"), closure]
