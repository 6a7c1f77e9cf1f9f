"""States of protocol 1 under the names of protocol 2."""

import numpy as np
import pytest

from detector.artifact.migration import migrated_parameters, migrated_state


@pytest.mark.parametrize(
    ("detector", "old", "new"),
    [
        ("fusion", "natural.path.centre", "component.path.centre"),
        ("fusion", "surprise.dispute.knots", "tail_score.prediction_disagreement.knots"),
        ("views", "surprise.change.excess", "tail_score.logit_shift.excess"),
        ("path", "surprise.learnt.knots", "tail_score.classifier.knots"),
        ("path", "own_classifier", "component.classifier.own_classifier"),
        ("path", "scales", "scales"),
        ("path", "shape", "shape"),
        ("path", "measured.path_vectors:residues", "requested.path_vectors:residues"),
        ("path", "reference.residues.everyone.means", "reference.residues.background.means"),
        ("relative_mahalanobis", "reference.everyone.whitening", "reference.background.whitening"),
        ("mahalanobis", "own_classifier", "own_classifier"),
    ],
)
def test_names_of_protocol_1_are_migrated(detector: str, old: str, new: str) -> None:
    array = np.zeros(1)
    assert migrated_state(detector, {old: array}, 1) == {new: array}
    assert migrated_state(detector, {new: array}, 2) == {new: array}


def test_later_options_have_the_values_that_change_nothing() -> None:
    assert migrated_parameters("transport_cost", {"quantile": 0.1}) == {"quantile": 0.1, "rule": "per_class"}
    assert migrated_parameters("transport", {"norms_only": True, "columns_per_block": 3}) == {
        "norms_only": True, "columns_per_block": 3,
    }  # fmt: skip
    assert migrated_parameters("knn", {"k": 5}) == {"k": 5}
