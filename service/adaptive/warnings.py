"""Warnings about adaptive attacks that do not work as they should, so that their figures say little."""

from service.adaptive.agreement import Agreement
from service.adaptive.records import AdaptiveAttacks

__all__ = ["warnings_of"]

_NEARLY_ALL = 0.95  # share of images that a working attack without a budget evades


def warnings_of(attacks: AdaptiveAttacks) -> list[str]:
    """One sentence for each symptom of a broken attack."""
    return [
        *(f"{name} was left out: {why}" for name, why in attacks.skipped.items()),
        *_descents(attacks),
        *(_surrogate(attacks.surrogate) if isinstance(attacks.surrogate, Agreement) else ()),
        *_not_confirmed(attacks),
    ]


def _descents(attacks: AdaptiveAttacks) -> list[str]:
    warnings = []
    for unlimited, few_steps in zip(attacks.unlimited, attacks.few_steps, strict=True):
        name, attempted, evaded = unlimited.name, int(unlimited.attempted.sum()), int(unlimited.evaded.sum())
        if evaded < _NEARLY_ALL * attempted:
            warnings.append(
                f"{name} without a budget (ε = 1) evaded {evaded} of {attempted} images instead of nearly all: "
                "something other than the budget limits the attack, and its shares are lower bounds only"
            )
        all_steps = next(each for each in attacks.sets if each.name == name and each.epsilon == few_steps.epsilon)
        few, many = int(few_steps.evaded.sum()), int(all_steps.evaded.sum())
        if few > many:
            warnings.append(
                f"{name} evaded {few} images with a quarter of the steps and {many} with all of them: more steps "
                "should not be weaker, and its shares are lower bounds only"
            )
    return warnings


def _surrogate(agreement: Agreement) -> list[str]:
    """Warnings about a surrogate that disagrees with the detector where descents follow it."""
    warnings = []
    outside = f"of {agreement.originals} originals that the surrogate was not fitted on"
    images = (
        ("natural images, Carlini and Wagner's images and noisy images", agreement.plain),
        ("the iterates of one selective descent against the final surrogate", agreement.descent),
    )
    for what, sides in images:
        if sides.worse is not None and sides.worse < 0.9:
            warnings.append(
                f"{what} {outside}: on the worse side of the threshold, the surrogate agrees with the detector on "
                f"{sides.worse:.0%} only; a descent follows it to images on which the detector decides otherwise"
            )
        elif sides.balanced is None:
            warnings.append(
                f"{what} {outside}: the detector flagged {sides.flagged} and passed {sides.passed}, so that the "
                "surrogate is untested on one side of the threshold"
            )
    return warnings


def _not_confirmed(attacks: AdaptiveAttacks) -> list[str]:
    checks = ((attacks.sets, ""), (attacks.unlimited, ", no budget"), (attacks.few_steps, ", few steps"))
    return [
        f"{each.name}{check}: {int(each.not_confirmed.sum())} images passed during the attack but not when scored "
        "again, where rounding decides; they do not count as evaded"
        for sets, check in checks
        for each in sets
        if each.not_confirmed.any()
    ]
