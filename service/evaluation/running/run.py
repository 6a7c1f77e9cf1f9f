"""Run a plan: features of every set once, then every detector, fitted and tested run by run.

    natural ─ every attack ─ every set of outliers      one forward pass each, with the features of all detectors
       │
    run 0, run 1, …  ─ every detector ─ every choice of sets to fit on ─→ results on the run's test images
       │
    the artifact, where there is one, on the images that it has not seen

Slow steps are cached, so that an interrupted evaluation continues where it stopped.
"""

from collections.abc import Callable, Mapping

import numpy as np

from detector.features.statistics import natural_band
from models.progress import progress_bar
from service.cache import EvaluationCache
from service.evaluation.planning.plan import EvaluationPlan
from service.evaluation.planning.protocols import Run
from service.evaluation.records import NATURAL, DetectorResult, Evaluation, noisy_name
from service.evaluation.running.adaptive import attack_adaptively
from service.evaluation.running.artifact import artifact_results
from service.evaluation.running.extraction import count_of_sets, extract_sets
from service.evaluation.running.scoring import Testing, fitting_of
from service.evaluation.running.sets import ExtractedSet

__all__ = ["run_evaluation"]


def run_evaluation(
    plan: EvaluationPlan, *, progress: bool = True, on_step: Callable[[str], None] | None = None
) -> Evaluation:
    """The evaluation that the plan describes.

    Args:
        plan: of the evaluation.
        progress: show a progress bar.
        on_step: called with the name of each step when it is done.

    Raises:
        AttackError: an attack failed or left its threat model.
        InputError: too few images to fit, prepare or calibrate a detector; the cache cannot be written.
    """
    cache, selection = EvaluationCache(plan.settings.cache), plan.selection
    fits = [
        (run, label, fit)
        for run in plan.splits.runs
        for label in selection.detectors
        for fit in selection.fits_of(label)
    ]
    with progress_bar(total=count_of_sets(plan) + len(fits), what="evaluation", unit="step", show=progress) as bar:

        def done(step: str) -> None:
            bar.set_postfix_str(step)
            bar.update()
            if on_step is not None:
                on_step(step)

        sets, scorer = extract_sets(plan, cache, done, progress=progress)
        results: list[DetectorResult] = []
        for run, label, fit in fits:
            fitting, testing = fitting_of(plan, scorer, run, label, fit), _testing(plan, sets, run)
            results.append(scorer.result(label, selection.detectors[label], run, fitting, testing))
            done(f"{label} in run {run.number}")
        if plan.unseen is not None:
            results = [*artifact_results(plan, plan.unseen, sets, scorer), *results]
        adaptive = attack_adaptively(plan, sets, scorer, progress=progress) if plan.settings.adaptive else None
    return Evaluation(
        protocol=plan.settings.protocol, sets={name: each.images for name, each in sets.items()},
        detector_results=tuple(results), branches=tuple(branch.name for branch in plan.subject.discovery.branches),
        columns_per_block=plan.subject.statistics_spec.columns_per_block,
        band=natural_band(sets[NATURAL].images.statistics), provenance=plan.provenance, adaptive=adaptive,
    )  # fmt: skip


def _testing(plan: EvaluationPlan, sets: Mapping[str, ExtractedSet], run: Run) -> Testing:
    """Test rows of one run: as many outliers as natural images, none of those that are fitted on."""
    tested = {NATURAL: sets[NATURAL].rows_of(run.test)}
    for name in plan.selection.tested:
        tested[name] = sets[name].rows_of(run.test)
        if plan.settings.noisy:
            tested[noisy_name(name)] = sets[noisy_name(name)].rows_of(run.test)
    for name, outliers in plan.images.outliers.items():
        fitted_on = name in plan.selection.fitted_on
        candidates = plan.outlier_parts(name, run)[1] if fitted_on else np.arange(len(outliers.rows))
        random = np.random.default_rng([plan.settings.seed, run.number, 4])
        tested[name] = np.sort(random.permutation(candidates)[: len(run.test)])
    return Testing(run.calibrate, tested, plan.settings.rates if plan.settings.protocol == "sound" else ())
