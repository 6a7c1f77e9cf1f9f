"""Plug-ins named on the command line, and options that would have no effect."""

import pytest

from models.errors import InputError
from service.inputs import attack_of, detector_of, refuse_unused


def test_a_classifier_may_be_stated_once_or_twice_alike() -> None:
    for text, classifier in (("knn", "svm"), ("knn:classifier=svm", "svm"), ("knn:classifier=svm", None)):
        assert detector_of(text, {}, classifier=classifier).parameters()["classifier"] == "svm"


def test_the_value_of_an_option_may_contain_colons() -> None:
    parameters = attack_of("transfer:substitute=n.py:small:w.pt:attack=fgm", epsilon="0.1", seed=0).parameters()
    assert (parameters["substitute"], parameters["attack"]) == ("n.py:small:w.pt", "fgm")
    with pytest.raises(InputError, match="expected NAME:OPTION=VALUE"):
        attack_of("transfer:small", epsilon="0.1", seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fusion:classifier=none", "--classifier svm contradicts the detector fusion:classifier=none"),
        ("energy", "the detector energy has no classifier; leave --classifier svm out"),
    ],
)
def test_a_classifier_without_effect_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector_of(text, {}, classifier="svm")


def test_attacks_and_reference_images_without_effect_are_refused() -> None:
    energy, knn = detector_of("energy", {}), detector_of("knn:classifier=none", {})
    with pytest.raises(InputError, match="--attack fgm bim has no effect on energy"):
        refuse_unused([energy], attacks=["fgm", "bim"])
    with pytest.raises(InputError, match="--reference digits has no effect on energy"):
        refuse_unused([energy], reference="digits")
    refuse_unused([energy, knn], reference="digits")
    refuse_unused([detector_of("transport", {})], attacks=["fgm"])
    refuse_unused([energy])
