"""Extract the features of every set of images of a plan, each image in one forward pass."""

from collections.abc import Callable

from models.features import FeatureRequest
from service.cache import EvaluationCache
from service.evaluation.planning.plan import EvaluationPlan
from service.evaluation.records import NATURAL
from service.evaluation.running import recipes
from service.evaluation.running.recipes import Recipe
from service.evaluation.running.scoring import Scorer
from service.evaluation.running.sets import ExtractedSet, Extractor, distinct

__all__ = ["count_of_sets", "extract_sets"]


def count_of_sets(plan: EvaluationPlan) -> int:
    """The number of steps of `extract_sets`."""
    attacked = len(plan.selection.attacks) * (2 if plan.settings.noisy else 1)
    return 1 + (plan.images.reference is not None) + attacked + len(plan.images.outliers)


def extract_sets(
    plan: EvaluationPlan, cache: EvaluationCache, done: Callable[[str], None], *, progress: bool
) -> tuple[dict[str, ExtractedSet], Scorer]:
    """Every set by name, with the features that all detectors request, and a scorer of these sets.

    Args:
        plan: of the evaluation.
        cache: of features.
        done: called with the name of each set when it is extracted.
        progress: show a bar while attacks run.
    """
    extractor = Extractor(plan.subject, cache)
    requests = distinct(*(each.feature_requests() for each in plan.selection.detectors.values()))
    if plan.unseen is not None:
        requests = distinct(requests, plan.unseen.artifact.pipeline.detector.feature_requests())
    natural = recipes.natural(plan.images.data)
    sets = {NATURAL: extractor.extract(natural, requests)}
    done(NATURAL)
    reference = None
    if plan.images.reference is not None:
        limited = plan.images.reference.limited(plan.settings.reference_limit, plan.settings.seed)
        reference = extractor.extract(recipes.natural(limited), requests)
        done("reference")
    scorer = Scorer(
        sets, cache, reference=reference, noisy=plan.settings.noisy, successful=plan.settings.fit_successful
    )
    requests = distinct(requests, _requests_after_preparation(plan, scorer))
    sets[NATURAL] = extractor.extract(natural, requests)
    for recipe in _recipes(plan, progress):
        sets[recipe.name] = extractor.extract(recipe, requests)
        done(recipe.name)
        if plan.settings.noisy and recipe.kind == "attack":
            copies = _noisy_copies(plan, sets[recipe.name])
            sets[copies.name] = extractor.extract(copies, requests)
            done(copies.name)
    return sets, scorer


def _recipes(plan: EvaluationPlan, progress: bool) -> list[Recipe]:
    settings, data, originals = plan.settings, plan.images.data, plan.splits.originals
    attacked = [
        recipes.attacked(
            name, attack, data, originals[name], plan.subject.network, eight_bit=settings.eight_bit,
            cache=settings.cache, workers=settings.workers, device=settings.device,
            progress=progress, source=plan.attacked[name],
        )
        for name, attack in plan.selection.attacks.items()
    ]  # fmt: skip
    return [*attacked, *(recipes.outliers(name, each.images, each.rows) for name, each in plan.images.outliers.items())]


def _noisy_copies(plan: EvaluationPlan, attacked: ExtractedSet) -> Recipe:
    images = attacked.images
    return recipes.noisy(
        images.name, plan.selection.attacks[images.name], plan.images.data,
        {"originals": images.originals, "attack": images.attack}, plan.settings.eight_bit, plan.settings.seed,
    )  # fmt: skip


def _requests_after_preparation(plan: EvaluationPlan, scorer: Scorer) -> list[FeatureRequest]:
    """Requests that detectors make only after `prepare`, whose reference images may differ from run to run."""
    return distinct(
        *(
            scorer.feature_requests(label, detector, scorer.fitting(run, detector, (), {}))
            for label, detector in plan.selection.detectors.items()
            if detector.needs_reference
            for run in (plan.splits.runs if plan.images.reference is None else plan.splits.runs[:1])
        )
    )
