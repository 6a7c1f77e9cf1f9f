"""Features of sets of images: one forward pass over each set, cached."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.common.digests import network_digest
from models.features import (
    FeatureExtractor,
    FeatureRequest,
    Features,
    ForwardPass,
    extract_features,
)
from models.images.stored import ImageSequence, as_float
from service.cache import EvaluationCache, code_closure
from service.evaluation.planning.subject import Subject
from service.evaluation.records import ImageSet
from service.evaluation.running.recipes import Made, Recipe

__all__ = ["ExtractedSet", "Extractor", "distinct"]

_KIND = "features"


@dataclass(frozen=True, eq=False)
class ExtractedSet:
    """A set with its features.

    Args:
        images: the set.
        features: of its images, with everything that was requested.
        key: everything that determines images and features, as JSON values.
    """

    images: ImageSet
    features: Features
    key: dict[str, Any]

    def rows_of(self, originals: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows whose originals are among these."""
        return np.flatnonzero(np.isin(self.images.originals, originals))

    def take(self, rows: NDArray[np.int64], feature_requests: Sequence[str]) -> Features:
        """Features of some rows, with these requested features only."""
        requested = {name: self.features.requested[name][rows] for name in feature_requests}
        return Features(self.features.logits[rows], self.features.statistics[rows], requested)


class Extractor:
    """Extracts and caches the features of sets of images.

    Args:
        subject: the network.
        cache: of features.
    """

    def __init__(self, subject: Subject, cache: EvaluationCache) -> None:
        self._subject, self._cache = subject, cache
        self._key = {
            "network": network_digest(subject.network), "measure": repr(subject.statistics_spec),
            "branches": [branch.name for branch in subject.discovery.branches],
            "code": code_closure("models.features.extraction"),
            "torch": torch.__version__, "device": subject.device,
            **({} if subject.discovery.blocks is None else {"blocks": subject.discovery.blocks}),
            **({} if subject.companion is None else {"companion": network_digest(subject.companion)}),
            "engine": subject.engine and [subject.engine.name, subject.engine.precision],
        }  # fmt: skip

    def extract(self, recipe: Recipe, feature_requests: Sequence[FeatureRequest]) -> ExtractedSet:
        """The set with its features; its images are made only if some feature is not cached."""
        key = {**self._key, "set": recipe.key}
        base = self._cache.load(_KIND, key)
        known = {each.name: self._cache.load(_KIND, _request_key(key, each), mapped=True) for each in feature_requests}
        missing = [each for each in feature_requests if known[each.name] is None]
        if base is None or missing:
            self._extract(recipe, key, missing, base is None)
            base = self._cache.load(_KIND, key)
            known = {
                each.name: self._cache.load(_KIND, _request_key(key, each), mapped=True) for each in feature_requests
            }
        assert base is not None
        arrays, more = base
        requested, costs = {}, dict(more["costs"])
        for name, entry in known.items():
            assert entry is not None
            requested[name], costs[name] = entry[0]["values"], entry[1]["seconds"]
        features = Features(arrays["logits"], arrays["statistics"], requested)
        images = ImageSet(
            name=recipe.name, kind=recipe.kind, originals=recipe.originals, labels=recipe.labels,
            predicted=features.predicted, probability=_probability(features.logits), statistics=features.statistics,
            success=arrays.get("success"), attack=more["attack"], costs=costs,
        )  # fmt: skip
        return ExtractedSet(images, features, key)

    def _extract(self, recipe: Recipe, key: dict[str, Any], missing: Sequence[FeatureRequest], whole: bool) -> None:
        made, subject = recipe.make(), self._subject
        timed = [_Timed(each) for each in missing]
        count = len(made.images)
        extractor = FeatureExtractor(
            subject.network, subject.discovery, subject.statistics_spec, missing, companion=subject.companion
        )
        size = extractor.batch_size(as_float(made.images[:1]).to(subject.device), count)  # before the time is measured
        start = time.perf_counter()
        features = self._features(made.images, timed, size)
        seconds = time.perf_counter() - start
        for each, original in zip(timed, missing, strict=True):
            self._cache.save(
                _KIND, _request_key(key, original), {"values": features.requested[each.name]},
                {"seconds": each.seconds / count},
            )  # fmt: skip
        if not whole:
            return
        arrays: dict[str, NDArray[Any]] = {"logits": features.logits, "statistics": features.statistics}
        summary = made.summary
        if made.natural_correct is not None:
            success, summary = _success(made, recipe.labels, features)
            arrays["success"] = success
        network = (seconds - sum(each.seconds for each in timed)) / count
        costs = {"network": network} | ({"attack": self._attack_seconds(recipe, made)} if summary else {})
        self._cache.save(_KIND, key, arrays, {"attack": summary, "costs": costs})

    def _features(self, images: ImageSequence, requests: Sequence["_Timed"], batch_size: int) -> Features:
        """The features through the engine; those that it does not serve from further passes in torch."""
        subject = self._subject
        extract = partial(
            extract_features, subject.network, images, discovery=subject.discovery,
            statistics_spec=subject.statistics_spec, companion=subject.companion, batch_size=batch_size,
            device=subject.device,
        )  # fmt: skip
        if (engine := subject.engine) is None:
            return extract(feature_requests=requests)
        served = [each for each in requests if each.needs.served_by(engine)]
        features = extract(feature_requests=served, engine=engine)
        if len(served) == len(requests):
            return features
        others = extract(feature_requests=[each for each in requests if each not in served])
        return features._replace(requested={**features.requested, **others.requested})

    def _attack_seconds(self, recipe: Recipe, made: Made) -> float | None:
        """Seconds per image when the attack ran; None if it ran outside evaluations."""
        key = {"network": self._key["network"], "set": recipe.key, "what": "seconds"}
        if made.seconds is not None:
            self._cache.save(_KIND, key, {}, {"seconds": made.seconds})
        entry = self._cache.load(_KIND, key)
        return None if entry is None else entry[1]["seconds"]


class _Timed:
    """A feature request that measures its own time."""

    def __init__(self, feature_request: FeatureRequest) -> None:
        self._request = feature_request
        self.name, self.needs, self.seconds = feature_request.name, feature_request.needs, 0.0

    def __call__(self, context: ForwardPass) -> Tensor:
        _synchronize(context.images)
        start = time.perf_counter()
        values = self._request(context)
        _synchronize(context.images)
        self.seconds += time.perf_counter() - start
        return values


def distinct(*groups: Sequence[FeatureRequest]) -> list[FeatureRequest]:
    """All feature requests of some detectors, each name once."""
    return list({each.name: each for group in groups for each in group}.values())


def _request_key(key: dict[str, Any], feature_request: FeatureRequest) -> dict[str, Any]:
    module = sys.modules[type(feature_request).__module__]
    return {**key, "measurement": feature_request.name, "by": code_closure(module)}


def _success(
    made: Made, labels: NDArray[np.int64] | None, features: Features
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """Success and summary by the predictions of the engine that is evaluated.

    Rounding of pixels, or an engine of another precision, corrects some of the images at the decision boundary.
    """
    assert made.natural_correct is not None
    right = np.asarray(features.predicted == labels)
    success = made.natural_correct & ~right
    natural = int(made.natural_correct.sum())
    rate = float(success.sum() / natural) if natural else None
    return success, {**(made.summary or {}), "accuracy_under_attack": float(right.mean()), "success_rate": rate}


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax probability of the predicted class, ``(N,)``."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    probability: NDArray[np.float64] = 1 / np.exp(shifted).sum(axis=1)
    return probability


def _synchronize(tensor: Tensor) -> None:
    """Wait for the GPU, whose pending work would otherwise count towards a later step."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
