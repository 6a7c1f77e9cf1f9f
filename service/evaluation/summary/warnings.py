"""Warnings about an evaluation's figures, as sentences."""

from collections.abc import Iterator
from typing import Any

from models.checking import accuracy_against_chance
from service.evaluation.records import NATURAL, Evaluation, ImageSet
from service.formatting import area, between, counted, exact_percent, percent

__all__ = ["evaluation_warnings"]

_FEW_NATURAL = 200  # the interval of a rate of 5 % is then about 6 points wide
_FEW_SUCCESSFUL = 30
_HARDLY_ANY_SUCCESS = 0.05


def evaluation_warnings(found: dict[str, Any], evaluation: Evaluation) -> list[str]:
    """Warnings about the figures `found`: on natural images, then set by set, then detector by detector."""
    notes = [*_on_natural(evaluation)]
    for entry in found["sets"]:
        if entry["kind"] == "attack":
            notes += _on_attack(entry, evaluation.sets[entry["name"]], evaluation)
    notes += _on_unscored(evaluation)
    for entry in found["false_positives"]:
        notes += _on_false_positives(entry)
    notes += _on_results(found["results"])
    attacked = [images for images in evaluation.sets.values() if images.success is not None]
    if attacked and not any(images.success.any() for images in attacked if images.success is not None):
        notes.append("No attack was successful on any image, so there is no worst case over attacks.")
    if not any(images.kind != "natural" for images in evaluation.sets.values()):
        notes.append("No attack was run and no outlier was tested, so these figures do not show what is detected.")
    if evaluation.protocol == "paper":
        notes.append(
            "These figures follow the thesis' protocol: no threshold was calibrated, and each attacked image counts "
            "as often as its natural original. Base claims on figures of the sound protocol."
        )
    return notes


def _on_natural(evaluation: Evaluation) -> Iterator[str]:
    natural = evaluation.sets[NATURAL]
    if evaluation.provenance.get("trained_on"):
        yield (
            "The network was trained on these very images. It is more confident on them than on others, so these "
            "figures do not hold in service; evaluate on images that it was not trained on."
        )
    tested = [len(each.rows[NATURAL]) for each in evaluation.detector_results if not each.baseline]
    count = min(tested, default=len(natural))
    if count < _FEW_NATURAL:
        yield (
            f"Only {counted(count, 'natural image')} tested in a run: every rate on natural images is uncertain by "
            f"several points, and a false-positive rate below {percent(1 / count)} cannot be measured."
        )
    assert natural.labels is not None
    found = accuracy_against_chance(natural.right, natural.labels)
    if found.classes == 1:
        yield "All natural images are of one class, so their accuracy is no measure of the network."
    elif found.is_chance:
        yield (
            f"Natural accuracy is {percent(found.accuracy)}, no better than always predicting the most frequent class "
            f"({percent(found.chance)}): the network or its preprocessing does not fit these images."
        )


def _on_attack(entry: dict[str, Any], images: ImageSet, evaluation: Evaluation) -> Iterator[str]:
    name, success = images.name, images.success
    assert success is not None
    successful, rate = int(success.sum()), entry["success_rate"]
    if rate is None:
        yield f"{name}: no original is classified correctly, so there is no success rate."
    if not successful:
        yield f"{name}: no image was attacked successfully, so there are no figures on successful images."
    elif successful < _FEW_SUCCESSFUL:
        yield (
            f"{name}: only {counted(successful, 'image')} attacked successfully; figures on them are very uncertain."
        )
    if successful and rate is not None and rate < _HARDLY_ANY_SUCCESS:
        yield (
            f"{name}: the attack succeeds on {percent(rate)} of the images only; it is too weak for this network, or "
            "it failed."
        )
    if success.all():
        yield f"{name}: every image was attacked successfully, so there are no figures on failed ones."
    unchanged = (images.attack or {}).get("unchanged") or 0
    if unchanged > 0:
        yield (
            f"{name}: {percent(unchanged)} of its images are left exactly as they were; they count among all and "
            "failed, and no detector should flag them. Read the figures on successful images."
        )
    if entry["broken"]:
        yield (
            f"{name}: the attacked set is broken. Statistics of the pixels alone, without the network, tell its images "
            "from natural ones almost perfectly, so figures on it say little about detectors that use the network: "
            "its perturbation is far larger than the attack needs, or its images were made or stored differently."
        )


def _on_unscored(evaluation: Evaluation) -> Iterator[str]:
    """Attacked sets all of whose originals the artifact has seen."""
    others = [each for each in evaluation.detector_results if each.detector != "artifact"]
    tested = {name for each in others for name in each.rows}
    only_fitted_on = {name for each in others for name in each.fitted_on} - tested
    for result in evaluation.detector_results:
        untested = set(evaluation.sets) - set(result.rows) - only_fitted_on if result.detector == "artifact" else set()
        for name in untested:
            if evaluation.sets[name].kind == "attack":
                yield (
                    f"{name}: the artifact has seen every image that this attack was tried on, so it is not tested "
                    "on them; give other images, or raise --attack-limit."
                )


def _on_false_positives(entry: dict[str, Any]) -> Iterator[str]:
    """One sentence over all runs where some are not compatible with the nominal rate."""
    incompatible = [run for run in entry["runs"] if not run["compatible"]]
    # One run in twenty lies outside its 95 % interval by chance.
    if len(incompatible) < max(1, len(entry["runs"]) / 4):
        return
    who = _who(entry)
    realised = percent(entry["mean"]["realised"])
    bounds = incompatible[0]["expected"] or incompatible[0]["interval"]
    how_many = "" if len(entry["runs"]) == 1 else f" in {len(incompatible)} of {len(entry['runs'])} runs"
    if sum(run["realised"] > entry["nominal"] for run in incompatible) * 2 > len(incompatible):
        yield (
            f"{who}: {realised} of the natural images are flagged, more than the nominal "
            f"{exact_percent(entry['nominal'])}{how_many} (expected: {between(bounds)}): "
            "these images differ from those that the threshold was calibrated on; calibrate on images like these."
        )
    else:
        yield (
            f"{who}: {realised} of the natural images are flagged, fewer than the nominal "
            f"{exact_percent(entry['nominal'])}{how_many} (expected: {between(bounds)}): "
            "many calibration scores are equal, or these images differ from those that the threshold was calibrated on."
        )


def _on_results(results: list[dict[str, Any]]) -> Iterator[str]:
    below_half: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for entry in results:
        figures = entry["mean"]["successful"] or entry["mean"]["all"]
        if not entry["baseline"] and figures is not None and _surely_below_half(entry, figures["auroc"]):
            key = (entry["detector"], tuple(entry["fitted_on"]))
            below_half.setdefault(key, []).append(f"{entry['tested_on']} ({area(figures['auroc'])})")
    for (detector, fitted_on), where in below_half.items():
        yield (
            f"{_who({'detector': detector, 'fitted_on': fitted_on})}: the AUROC is below 0.5 on {', '.join(where)}: "
            "the detector scores those images lower than natural ones."
        )
    attacked = [entry for entry in results if not entry["baseline"] and entry["kind"] == "attack"]
    if attacked and all(entry["seen"] for entry in attacked):
        yield (
            "Every detector was fitted on every attack it is tested on, so these figures say nothing about attacks it "
            "has not seen."
        )


def _surely_below_half(entry: dict[str, Any], mean: float) -> bool:
    """Whether the mean AUROC is below 0.5, and so is the interval of every run that has one."""
    groups = [run["successful"] or run["all"] for run in entry["runs"]]
    uppers = [group["auroc_interval"][1] for group in groups if group and group.get("auroc_interval")]
    return mean < 0.5 and all(upper < 0.5 for upper in uppers)


def _who(entry: dict[str, Any]) -> str:
    fitted_on = ", ".join(entry["fitted_on"])
    return f"{entry['detector']} fitted on {fitted_on}" if fitted_on else entry["detector"]
