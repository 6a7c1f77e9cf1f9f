"""The table that `search` chooses on: of every image, all columns of `fusion` and of the candidates, by group."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attacks.common.digests import arrays_digest
from benchmarks.detection.candidates import ClassProjections, Curvature, PooledMoments, SpectralShares, exit_agreement
from benchmarks.detection.perturbations import PERTURBATIONS, perturbed
from detector.density.gaussians import Gaussians
from detector.density.natural import gaussians_of_classes
from detector.detectors.fusion import Fusion
from detector.features.path_columns import class_distances, two_likeliest
from detector.features.path_groups import PathGaussians, path_groups, view_groups
from models.datasets.base import ImageDataset
from models.features import FeatureRequest, Features
from models.images.views import View
from models.progress import progress_bar
from service.cache import EvaluationCache, code_closure, code_digest
from service.evaluation.planning.subject import Subject
from service.evaluation.records import NATURAL
from service.evaluation.running import recipes as study_recipes
from service.evaluation.running.recipes import Made, Recipe
from service.evaluation.running.sets import ExtractedSet, Extractor, distinct
from service.inputs import attack_of

__all__ = ["CANDIDATES", "CHANGED", "SYNTHETIC", "Columns", "Subset", "search_rows", "table_of"]

Array = np.ndarray

CANDIDATES = ("curvature", "spectrum", "deviations", "squares", "projections", "exits")
SYNTHETIC = "synthetic"  # perturbed images
CHANGED = "synthetic:changed"  # those of them that the network answers otherwise than their originals
_COPIES = 2  # perturbed images of every original

_MOMENTS = {"deviations": PooledMoments("deviations"), "squares": PooledMoments("squares")}
_MEASURED: tuple[FeatureRequest, ...] = (Curvature(), SpectralShares(), ClassProjections(), *_MOMENTS.values())


class Subset(NamedTuple):
    """An attack as the command line names it, and how many of the images it is run on, the first; None for all."""

    attack: str
    limit: int | None


@dataclass(frozen=True, eq=False)
class Columns:
    """One set of images: originals ``(N,)``, success ``(N,)``, and features with a group of columns per measurement.

    The key says what decides them.
    """

    originals: Array
    success: Array
    features: Features
    key: dict[str, Any]


def search_rows(count: int, first: int, end: int, seed: int) -> Array:
    """Rows that ``limited(first, seed)`` of `count` images leaves out: the next of the same order, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(count)[first:end])


def table_of(
    subject: Subject,
    data: ImageDataset,
    reference: ImageDataset,
    attacks: Sequence[Subset],
    *,
    view: str,
    cache: Path | None,
    seed: int,
    progress: bool = True,
) -> dict[str, Columns]:
    """The natural images, every attack, `SYNTHETIC` and `CHANGED`, by name; what is known is read from the cache."""
    kept = EvaluationCache(cache)
    observer = Extractor(subject, kept)
    wanted = distinct(Fusion(view=view).feature_requests(), _MEASURED)
    recipes = [study_recipes.natural(data)]
    for text, limit in attacks:
        attack, rows = attack_of(text, epsilon="0.03", seed=seed), np.arange(len(data))[:limit]
        recipes.append(
            study_recipes.attacked(
                text, attack, data, rows, subject.network, eight_bit=False, cache=cache, workers=1,
                device=subject.device, progress=progress,
            )
        )  # fmt: skip
    recipes += [_synthetic(data, seed + copy) for copy in range(_COPIES)]
    compared = observer.extract(study_recipes.natural(reference), wanted)
    known = _Gaussians(compared, reference.labels)
    found: dict[str, Columns] = {}
    copies = []
    for recipe in progress_bar(recipes, what="table", unit="set", show=progress):
        observed = observer.extract(recipe, wanted)
        columns = _columns(observed, known, View.parse(view), kept)
        if recipe.name == SYNTHETIC:
            copies.append(columns)
        else:
            found[recipe.name] = columns
    return found | _perturbed(copies, found[NATURAL])


def _synthetic(data: ImageDataset, seed: int) -> Recipe:
    key = {
        "data": data.fingerprint(), "perturbations": repr(PERTURBATIONS), "seed": seed,
        "code": code_digest("benchmarks.detection.perturbations"),
    }  # fmt: skip

    def make() -> Made:
        return Made(perturbed(data.tensor().numpy(), seed))

    return Recipe(SYNTHETIC, "natural", np.arange(len(data)), data.labels, key, make)


def _perturbed(copies: Sequence[Columns], natural: Columns) -> dict[str, Columns]:
    """All perturbed images as one set, and those of them whose answer is another."""
    both = Columns(
        np.concatenate([each.originals for each in copies]), np.concatenate([each.success for each in copies]),
        Features.concatenated([each.features for each in copies]), {"copies": [each.key for each in copies]},
    )  # fmt: skip
    changed = np.flatnonzero(both.features.predicted != natural.features.predicted[both.originals])
    some = Columns(
        both.originals[changed], both.success[changed], both.features.take(changed), {**both.key, "changed": True}
    )
    return {SYNTHETIC: both, CHANGED: some}


class _Gaussians:
    """Those of fusion and of the candidates' vectors, learnt when somebody asks."""

    def __init__(self, reference: ExtractedSet, labels: Array) -> None:
        self._reference, self._labels, self._learnt = reference, labels, False
        self.key = {**reference.key, "labels": arrays_digest({"labels": labels})}
        self.path: PathGaussians
        self.moments: dict[str, tuple[Gaussians, Gaussians]]

    def learn(self) -> None:
        """From the reference images, once."""
        if self._learnt:
            return
        features, labels = self._reference.features, self._labels
        self.path = PathGaussians.fit(features, labels, Fusion.gaussians_of)
        self.moments = {}
        for name, feature_request in _MOMENTS.items():
            values = features.requested[feature_request.name]
            classes = gaussians_of_classes(values, labels, features.logits.shape[1])
            self.moments[name] = classes, gaussians_of_classes(values, np.zeros_like(labels), 1)
        self._learnt = True


def _columns(observed: ExtractedSet, known: _Gaussians, view: View, kept: EvaluationCache) -> Columns:
    images = observed.images
    key = {
        "set": observed.key, "reference": known.key, "view": view.name,
        "code": [code_closure(name) for name in ("detector.detectors.fusion", "benchmarks.detection.candidates")],
        "own": code_digest(sys.modules[__name__]),
    }  # fmt: skip
    entry = kept.load("columns", key)
    if entry is None:
        known.learn()
        groups = _groups(observed.features, known, view)
        kept.save("columns", key, {name: values.astype(np.float32) for name, values in groups.items()}, {})
        entry = kept.load("columns", key)
    assert entry is not None
    features = Features(observed.features.logits, observed.features.statistics, entry[0])
    success = np.ones(len(images), dtype=np.bool_) if images.success is None else images.success
    return Columns(images.originals, success, features, key)


def _groups(features: Features, known: _Gaussians, view: View) -> dict[str, Array]:
    measured, likeliest = features.requested, two_likeliest(features.logits)
    groups = path_groups(features, known.path)
    groups |= view_groups(features, view, known.path, groups["embeddings"])
    groups |= {
        "curvature": measured[Curvature.name],
        "spectrum": measured[SpectralShares.name],
        "projections": measured[ClassProjections.name],
        "exits": exit_agreement(groups["embeddings"]),
    }
    for name, feature_request in _MOMENTS.items():
        groups[name] = class_distances(measured[feature_request.name], likeliest, *known.moments[name])
    return groups
