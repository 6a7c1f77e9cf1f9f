"""What a reader of the figures has to be careful about, as plain sentences."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from detector.calibration import clopper_pearson
from service.wording import area, asked, between, counted, percent

if TYPE_CHECKING:
    from service.evaluation import JudgedSet

__all__ = ["cautions"]

_FEW_NATURAL = 200  # the interval of a rate of 5 % is then about 6 points wide
_FEW_SUCCESSFUL = 30
_HARDLY_ANY_SUCCESS = 0.05


def cautions(found: dict[str, Any], natural: "JudgedSet", attacked: Sequence["JudgedSet"]) -> list[str]:
    """Sentences about the figures `found`: first on the natural images, then attack by attack.

    Every figure that is None is explained by one of them.
    """
    notes = [*_on_natural(natural), *_on_false_positives(found["false_positives"])]
    for entry, judged in zip(found["attacks"], attacked, strict=True):
        notes += _on_attack(entry, judged)
    if attacked and all(judged.seen for judged in attacked):
        notes.append(
            "The detector was fitted on every attack here, so these figures say nothing about attacks it has not seen."
        )
    if not attacked:
        notes.append("No attack was run, so nothing is known here about what the detector finds.")
    elif found["worst_case"]["share"] is None:
        notes.append("No attack was successful on any image, so there is no worst case over attacks.")
    return notes


def _on_natural(natural: "JudgedSet") -> Iterator[str]:
    count, right = len(natural), int(natural.right.sum())
    if natural.flagged.all():
        yield "Every natural image is flagged, so there is no accuracy of those let through."
    if count < _FEW_NATURAL:
        yield (
            f"Only {counted(count, 'natural image')}: every rate on natural images is uncertain by several points, "
            f"and a false-positive rate below {percent(1 / count)} cannot be seen at all."
        )
    _, counts = np.unique(natural.labels, return_counts=True)
    if len(counts) == 1:
        yield "All natural images are of one class, so their accuracy says little about the network."
    elif clopper_pearson(right, count).low <= counts.max() / count:
        yield (
            f"Natural accuracy is {percent(right / count)}, no better than always naming the commonest class "
            f"({percent(counts.max() / count)}): the network or its preprocessing is not right for these images."
        )


def _on_false_positives(rates: dict[str, Any]) -> Iterator[str]:
    if rates["compatible"]:
        return
    allowed = f", where {between(rates['expected'])} is to be expected" if rates["expected"] else ""
    if rates["realised"] > rates["nominal"]:
        yield (
            f"{percent(rates['realised'])} of the natural images are flagged (95 % interval "
            f"{between(rates['interval'])}), more than the {asked(rates['nominal'])} asked for{allowed}: these "
            "images differ from those the threshold was calibrated on; calibrate on images like these."
        )
    else:
        yield (
            f"{percent(rates['realised'])} of the natural images are flagged (95 % interval "
            f"{between(rates['interval'])}), fewer than the {asked(rates['nominal'])} asked for{allowed}: many "
            "calibration scores are equal, or these images differ from those the threshold was calibrated on."
        )


def _on_attack(entry: dict[str, Any], judged: "JudgedSet") -> Iterator[str]:
    name, success = judged.name, judged.success
    assert success is not None
    successful = int(success.sum())
    if entry["success_rate"] is None:
        yield f"{name}: no original is classified correctly, so there is no rate of success."
    if not successful:
        yield f"{name}: no image was attacked successfully, so there are no figures on successful images."
    elif successful < _FEW_SUCCESSFUL:
        yield (
            f"{name}: only {counted(successful, 'image')} attacked successfully; figures on them are very uncertain."
        )
    if successful and entry["success_rate"] is not None and entry["success_rate"] < _HARDLY_ANY_SUCCESS:
        yield (
            f"{name}: the attack succeeds on {percent(entry['success_rate'])} of the images only; it is too weak for "
            "this network, or it failed."
        )
    if success.all():
        yield f"{name}: every image was attacked successfully, so there are no figures on failed ones."
    for group in ("successful", "all"):
        figures = entry["detection"][group]
        if figures is not None and figures["auroc"] < 0.5:
            yield (
                f"{name}: the AUROC on {group if group == 'successful' else 'all attacked'} images is "
                f"{area(figures['auroc'])}, below 0.5: they look more natural to the detector than natural ones do."
            )
            break
    mismatched = int((success & judged.right).sum())
    if mismatched:
        yield (
            f"{name}: {counted(mismatched, 'image')} counted as successful when attacked but classified correctly when "
            "judged; the attack ends so close to the boundary that rounding decides."
        )
    unchanged = (judged.attack or {}).get("unchanged") or 0
    if unchanged > 0:
        yield (
            f"{name}: {percent(unchanged)} of its images are left exactly as they were; they count among all and "
            "failed, and no detector should flag them. Read the figures on successful images."
        )
