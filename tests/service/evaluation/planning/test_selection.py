"""Selections: attacks, detectors and fits, and settings that contradict each other."""

import re
from typing import Any

import pytest

from attacks import parse_epsilon
from models.errors import InputError, UnknownNameError
from service.evaluation.planning.selection import BASELINES, Selection, select
from service.evaluation.planning.settings import EvaluationSettings


def selected(*outliers: str, **more: Any) -> Selection:
    return select(EvaluationSettings(**more), outliers)


def test_a_selection_names_sets_fits_and_baselines() -> None:
    selection = selected(
        "mnist", "cifar100", detectors=("transport", "knn:classifier=none"),
        fit_on=("fgm", "fgm+bim", "all"), test_on=("fgm", "pgd:epsilon=2/255"), fit_ood=("mnist",),
        attack_limit={"pgd": 7, "bim": 9},
    )  # fmt: skip
    assert list(selection.attacks) == ["fgm", "pgd:epsilon=2/255", "bim"]
    assert selection.tested == ("fgm", "pgd:epsilon=2/255")
    everything = ("fgm", "pgd:epsilon=2/255", "bim")
    assert selection.fits == (("fgm",), ("fgm", "bim"), everything, ("ood:mnist",))
    assert selection.outliers == ("ood:mnist", "ood:cifar100")
    assert selection.limits == {"pgd:epsilon=2/255": 7, "bim": 9}
    assert list(selection.detectors) == ["transport", "knn:classifier=none", *BASELINES]
    assert selection.fits_of("transport") == selection.fits
    # The pixel baseline is also fitted on each tested attack by itself.
    assert selection.fits_of("pixel_statistics") == (*selection.fits, ("pgd:epsilon=2/255",))
    assert selection.fits_of("knn:classifier=none") == selection.fits_of("energy") == ((),)


def test_budgets_add_a_set_for_every_attack_that_has_one() -> None:
    selection = selected(test_on=("bim", "deepfool", "fgm:epsilon=4/255"), budgets=("2/255", "0.03"), epsilon="0.03")
    assert list(selection.attacks) == ["bim", "deepfool", "fgm:epsilon=4/255", "fgm", "bim:epsilon=2/255"]
    assert selection.tested == ("bim", "deepfool", "fgm:epsilon=4/255", "bim:epsilon=2/255")
    assert selection.attacks["bim:epsilon=2/255"].epsilon == parse_epsilon("2/255")
    assert selection.attacks["bim"].epsilon == 0.03


def test_a_budget_that_is_fitted_on_is_tested_too() -> None:
    selection = selected(
        test_on=("bim",), fit_on=("bim:epsilon=2/255", "fgm"), budgets=("2/255", "4/255"), epsilon="0.03"
    )
    assert selection.tested == ("bim", "bim:epsilon=2/255", "bim:epsilon=4/255")
    assert selection.fits == (("bim:epsilon=2/255",), ("fgm",))


def test_a_budget_is_made_once_however_it_is_written() -> None:
    selection = selected(test_on=("bim",), budgets=("2/255", "4/510", "0.03"), epsilon="0.03")
    assert selection.tested == ("bim", "bim:epsilon=2/255")
    assert len([name for name in selection.attacks if "epsilon" in name]) == 1
    assert selected(test_on=("bim",), budgets=("0.03",), epsilon="0.03").tested == ("bim",)


def test_baselines_are_attacked_adaptively_only_on_request() -> None:
    assert EvaluationSettings().attacked_adaptively == ("transport",)
    assert EvaluationSettings(detectors=("knn", "energy")).attacked_adaptively == ("knn", "energy")


def test_defaults_fit_on_fgm_unless_nothing_learns() -> None:
    assert selected().fits == (("fgm",),)
    assert selected().tested == ("fgm",)
    unfitted = selected("mnist", detectors=("transport_cost",))
    assert (unfitted.fits, unfitted.tested, unfitted.outliers) == ((), (), ("ood:mnist",))
    assert unfitted.fits_of("transport_cost") == ((),)
    assert selected(detectors=("energy",)).tested == ("fgm",)
    assert list(selected(detectors=("energy",)).detectors) == ["energy", "max_softmax", "pixel_statistics"]
    outliers = selected("mnist", fit_ood=("mnist",))
    assert (outliers.fits, dict(outliers.attacks)) == ((("ood:mnist",),), {})


def test_a_limit_of_a_label_goes_before_that_of_its_attack() -> None:
    selection = selected(test_on=("bim", "bim:steps=3"), attack_limit={"bim:steps=3": 5, "bim": 50})
    assert selection.limits["bim:steps=3"] == 5
    assert selection.limits["bim"] == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_on": ("fgsm",)}, "fgm"),
        ({"detectors": ("transprot",)}, "transport"),
        ({"detectors": ("transport:trees=3",)}, "num_trees"),
        ({"fit_on": ("fgm+all",)}, "alone"),
        ({"fit_on": ("all",), "test_on": ()}, "alone, beside attacks"),
        ({"test_on": ("deepfool",), "budgets": ("1/255",)}, "such as pgd"),
        ({"test_on": ("fgm",), "budgets": ("1:255",)}, "8/255"),
        ({"attack_limit": {"boundary": 5}}, "it has fgm"),
        ({"attack_limit": {"fgm": 0}}, "at least one"),
        ({"fit_ood": ("mnist",)}, "outlier sets of the evaluation to fit on, got ood:mnist"),
        ({"test_on": ("pgd:epsilon=8/255",), "budgets": ("1/255",)}, "that its label does not name"),
        ({"protocol": "paper", "fpr": 0.2}, "--protocol sound for --fpr"),
        ({"noisy": True}, "--protocol paper for --noisy"),
        ({"noisy": True, "protocol": "paper", "test_on": ("fgm", "jsma")}, "for --noisy, got jsma"),
        ({"protocol": "paper", "adaptive": ("black_box",)}, "--protocol sound for --adaptive"),
        ({"adaptive": ("magic",)}, "black_box"),
        ({"adaptive_images": 0}, "--adaptive-images"),
        ({"reference_limit": 0}, "--reference-limit"),
        ({"fpr": 1.5}, "--fpr between 0 and 1"),
        ({"workers": 0}, "--workers"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_contradicting_options_are_refused_with_a_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=re.escape(message)):
        selected(**options)


def test_a_detector_that_learns_from_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="--fit-on or --fit-ood"):
        selected("mnist", fit_on=())
