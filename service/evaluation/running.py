"""Settings → evaluation: sets are made once, detectors are fitted and asked run by run, and what is done stays in the
cache.

natural ─ every attack ─ every set of outliers      one pass each, with what all detectors measure
   │
run 0, run 1, …  ─ every detector ─ every choice of sets to fit on ─→ results on the run's test rows
   │
the artifact, where there is one, on the images it has not seen
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact
from detector.base.detector import Detector
from detector.features.statistics import natural_band
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.features import FeatureRequest
from models.progress import progress_bar
from service.cache import EvaluationCache
from service.evaluation import recipes as set_recipes
from service.evaluation.adaptive import attacked_adaptively, pipeline_of
from service.evaluation.artifact import artifact_results
from service.evaluation.protocols import Run, check_represented, chosen_originals, outlier_parts, runs_of
from service.evaluation.recipes import Recipe
from service.evaluation.records import NATURAL, DetectorResult, Evaluation, noisy_name
from service.evaluation.scoring import Fitting, Scorer, Testing, can_calibrate
from service.evaluation.sets import ExtractedSet, Observer, Subject, distinct
from service.evaluation.settings import EvaluationSettings, Plan, outlier_name, plan_of

__all__ = ["EvaluationRun", "run_evaluation"]

Rows = NDArray[np.int64]


def run_evaluation(
    subject: Subject,
    data: ImageDataset,
    settings: EvaluationSettings,
    *,
    outliers: Mapping[str, ImageDataset] | None = None,
    reference: ImageDataset | None = None,
    artifact: Artifact | None = None,
    unseen: Rows | None = None,
    alone: bool = False,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
    on_step: Callable[[str], None] | None = None,
) -> Evaluation:
    """The evaluation of a network on natural, attacked and other images.

    Args:
        data: natural images with the network's labels.
        outliers: label → data set, those of `settings.fit_ood` among them; images of the network's size.
        reference: natural images that are not in `data`, for detectors that compare with others.
        artifact: to be judged besides, on the rows `unseen` of `data`.
        alone: judge nothing but the artifact and the trivial baselines.
        provenance: to be kept with the evaluation.
        on_step: told the name of each step once it is done.

    Raises:
        InputError: settings that contradict each other or the images, before any attack runs.
        AttackError: an attack failed or left its threat model.
    """
    run = EvaluationRun(subject, data, settings, outliers or {}, reference, artifact, unseen, alone)
    return run.evaluation(provenance or {}, progress, on_step)


class EvaluationRun:
    """Everything that is known before any attack runs, and the steps from there; see `run_evaluation`."""

    def __init__(
        self,
        subject: Subject,
        data: ImageDataset,
        settings: EvaluationSettings,
        outliers: Mapping[str, ImageDataset],
        reference: ImageDataset | None,
        artifact: Artifact | None,
        unseen: Rows | None,
        alone: bool,
    ) -> None:
        self.subject, self.data, self.settings = subject, data, settings
        self.artifact, self.unseen, self.alone = artifact, unseen, alone
        self.outlier_data = {outlier_name(label): images for label, images in outliers.items()}
        branches = subject.discovery.branches
        self.plan: Plan = plan_of(
            settings, outliers, columns_per_block=subject.statistics_spec.columns_per_block, view=subject.view,
            block_sizes=[math.prod(branch.shape) for branch in branches], artifact=alone,
        )  # fmt: skip
        self.reference = None if reference is None else reference.limited(settings.reference_limit, settings.seed)
        count, seed = len(data), settings.seed
        self.originals = {name: chosen_originals(count, self.plan.limits.get(name), seed) for name in self.plan.attacks}
        self.outlier_rows = {
            name: np.sort(np.random.default_rng([seed, 3]).permutation(len(images))[:count])
            for name, images in self.outlier_data.items()
        }
        self._check_images()
        self.runs: tuple[Run, ...] = () if alone else self._split()

    def _check_images(self) -> None:
        given = {**self.outlier_data, **({"the reference": self.reference} if self.reference else {})}
        for name, images in given.items():
            if images.image_shape != self.subject.image_shape:
                raise InputError(f"expected images {self.subject.image_shape} in {name}, got {images.image_shape}")
        if self.data.image_shape != self.subject.image_shape:
            raise InputError(f"expected images {self.subject.image_shape} to judge, got {self.data.image_shape}")

    def _split(self) -> tuple[Run, ...]:
        settings, plan = self.settings, self.plan
        runs = runs_of(
            settings.protocol, self.data.labels, list(plan.limits.values()),
            runs=settings.runs, split=settings.split, seed=settings.seed,
        )  # fmt: skip
        check_represented(runs, self.originals)
        fewest = min(len(run.calibrate) for run in runs)
        if settings.protocol == "sound" and not can_calibrate(fewest, settings.operating_rate):
            raise InputError(
                f"expected enough images to calibrate a false-positive rate of {settings.operating_rate:g}, got "
                f"{fewest} in a run; give more images (--limit), or raise the second share of --split or --fpr"
            )
        for name in self.outlier_data:
            if name in {each for fit in plan.fits for each in fit} and len(self.outlier_rows[name]) < 10:
                raise InputError(f"expected at least 10 images of {name} to fit on, got {len(self.outlier_rows[name])}")
        return runs

    def evaluation(
        self, provenance: dict[str, Any], progress: bool, on_step: Callable[[str], None] | None
    ) -> Evaluation:
        """The evaluation, step by step under one progress bar."""
        cache = EvaluationCache(self.settings.cache)
        observer = Observer(self.subject, cache)
        fits = [
            (run, label, fit) for run in self.runs for label in self.plan.detectors for fit in self.plan.fits_of(label)
        ]
        noisy = len(self.plan.attacks) if self.settings.noisy else 0
        steps = 1 + (self.reference is not None) + len(self.plan.attacks) + noisy + len(self.outlier_data) + len(fits)
        with progress_bar(total=steps, what="evaluation", unit="step", show=progress) as bar:

            def done(what: str) -> None:
                bar.set_postfix_str(what)
                bar.update()
                if on_step is not None:
                    on_step(what)

            sets, scorer = self._observed(observer, cache, progress, done)
            detector_results: list[DetectorResult] = []
            for run, label, fit in fits:
                fitting = self._fitting(scorer, run, label, fit)
                detector_result = scorer.result(
                    label, self.plan.detectors[label], run, fitting, self._testing(run, sets)
                )
                detector_results.append(detector_result)
                done(f"{label} in run {run.number}")
            if self.artifact is not None and self.unseen is not None:
                detector_results = [
                    *artifact_results(self.artifact, sets, self.plan, scorer, self.unseen, self.settings, self.alone),
                    *detector_results,
                ]
            adaptive = self._adaptive(scorer, sets, progress) if self.settings.adaptive else None
        return Evaluation(
            protocol=self.settings.protocol, sets={name: each.images for name, each in sets.items()},
            detector_results=tuple(detector_results),
            branches=tuple(branch.name for branch in self.subject.discovery.branches),
            columns_per_block=self.subject.statistics_spec.columns_per_block,
            band=natural_band(sets[NATURAL].images.statistics), provenance=provenance, adaptive=adaptive,
        )  # fmt: skip

    def _adaptive(self, scorer: Scorer, sets: Mapping[str, ExtractedSet], progress: bool) -> dict[str, Any]:
        """Figures by detector: of the artifact, or of what was first fitted in the first run."""
        if self.artifact is not None and self.unseen is not None:
            return attacked_adaptively(
                "artifact", self.artifact.pipeline, self.data, self.unseen, self.settings, progress=progress
            )
        run, found = self.runs[0], dict[str, Any]()
        for label in self.settings.attacked_adaptively():
            detector = self.plan.detectors[label]
            fit = self.plan.fits_of(label)[0]
            fitted, _ = scorer.fitted(label, detector, self._fitting(scorer, run, label, fit))
            calibration = scorer.calibration(fitted, run.calibrate, self.settings.operating_rate)
            one_vote = scorer.calibration_of_vote(fitted, run.calibrate, self.settings.operating_rate, "all_class")
            found |= attacked_adaptively(
                f"{label} fitted on {' and '.join(fit)}" if fit else label,
                pipeline_of(self.subject, fitted, calibration, sets[NATURAL]),
                self.data, run.test, self.settings, one_vote=one_vote, progress=progress,
            )  # fmt: skip
        return found

    def _observed(
        self, observer: Observer, cache: EvaluationCache, progress: bool, done: Callable[[str], None]
    ) -> tuple[dict[str, ExtractedSet], Scorer]:
        """Every set with everything that any detector measures, and who judges them."""
        wanted = distinct(*(each.feature_requests() for each in self._everyone()))
        recipe = set_recipes.natural(self.data)
        sets = {NATURAL: observer.extract(recipe, wanted)}
        done(NATURAL)
        reference = None
        if self.reference is not None:
            reference = observer.extract(set_recipes.natural(self.reference), wanted)
            done("reference")
        scorer = Scorer(sets, cache, reference=reference, noisy=self.settings.noisy)
        wanted = distinct(wanted, self._measured_when_prepared(scorer))
        sets[NATURAL] = observer.extract(recipe, wanted)
        for recipe in self._recipes(progress):
            sets[recipe.name] = observer.extract(recipe, wanted)
            done(recipe.name)
            if self.settings.noisy and recipe.kind == "attack":
                images = sets[recipe.name].images
                copies = set_recipes.noisy(
                    recipe.name, self.plan.attacks[recipe.name], self.data,
                    {"originals": images.originals, "attack": images.attack},
                    self.settings.eight_bit, self.settings.seed,
                )  # fmt: skip
                sets[copies.name] = observer.extract(copies, wanted)
                done(copies.name)
        return sets, scorer

    def _recipes(self, progress: bool) -> Sequence[Recipe]:
        settings = self.settings
        attacked = [
            set_recipes.attacked(
                name, attack, self.data, self.originals[name], self.subject.network, eight_bit=settings.eight_bit,
                cache=settings.cache, workers=settings.workers, device=settings.device, progress=progress,
            )
            for name, attack in self.plan.attacks.items()
        ]  # fmt: skip
        others = [
            set_recipes.outliers(name, images, self.outlier_rows[name]) for name, images in self.outlier_data.items()
        ]
        return [*attacked, *others]

    def _everyone(self) -> list[Detector]:
        detectors = list(self.plan.detectors.values())
        return detectors if self.artifact is None else [*detectors, self.artifact.pipeline.detector]

    def _measured_when_prepared(self, scorer: Scorer) -> list[FeatureRequest]:
        """What detectors measure only once they know their reference images, which may be others in every run."""
        return distinct(
            *(
                scorer.feature_requests(label, detector, scorer.fitting(run, detector, (), {}))
                for label, detector in self.plan.detectors.items()
                if detector.needs_reference
                for run in (self.runs if self.reference is None else self.runs[:1])
            )
        )

    def _fitting(self, scorer: Scorer, run: Run, label: str, fit: tuple[str, ...]) -> Fitting:
        rows = {name: self._outlier_parts(name, run)[0] for name in fit if name in self.outlier_data}
        return scorer.fitting(run, self.plan.detectors[label], fit, rows)

    def _outlier_parts(self, name: str, run: Run) -> tuple[Rows, Rows]:
        return outlier_parts(
            len(self.outlier_rows[name]), run, self.settings.split, self.settings.protocol, self.settings.seed
        )

    def _testing(self, run: Run, sets: Mapping[str, ExtractedSet]) -> Testing:
        """Test rows of one run: of outliers as many as there are natural images, none of those fitted on."""
        tested = {NATURAL: sets[NATURAL].rows_of(run.test)}
        for name in self.plan.tested:
            tested[name] = sets[name].rows_of(run.test)
            if self.settings.noisy:
                tested[noisy_name(name)] = sets[noisy_name(name)].rows_of(run.test)
        fitted_on = {name for fit in self.plan.fits for name in fit}
        for name, rows in self.outlier_rows.items():
            left = self._outlier_parts(name, run)[1] if name in fitted_on else np.arange(len(rows))
            random = np.random.default_rng([self.settings.seed, run.number, 4])
            tested[name] = np.sort(random.permutation(left)[: len(run.test)])
        return Testing(run.calibrate, tested, self.settings.rates if self.settings.protocol == "sound" else ())
