"""Numbers of the components on a case worked by hand or by SciPy."""

import numpy as np
import pytest
from scipy.special import logsumexp

from detector.components.base import ColumnTable, Component, Inputs
from detector.components.energy import Energy
from detector.components.logit_shift import LogitShift
from detector.components.logits import LogitDistance
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_energy import ViewEnergy
from detector.density.natural_columns import NaturalColumns
from models.images.views import View

VIEW = View.parse("shift1")


@pytest.fixture
def inputs(rng: np.random.Generator) -> Inputs:
    logits, view = rng.normal(size=(2, 40, 5)).astype(np.float32)
    return Inputs(logits, np.zeros((40, 2), np.float32), {f"view_logits:{VIEW.name}": view})


def table(component: Component, inputs: Inputs) -> ColumnTable:
    return ColumnTable(component.columns(inputs), inputs.logits.argmax(axis=1), 5)


def test_energies_are_scipys(inputs: Inputs) -> None:
    own, view = (-logsumexp(each, axis=1) for each in (inputs.logits, *inputs.requested.values()))
    np.testing.assert_allclose(Energy().score(table(Energy(), inputs)), own, rtol=1e-6)
    component = ViewEnergy(VIEW)
    np.testing.assert_allclose(component.score(table(component, inputs)), own + view, rtol=1e-6)


def test_disagreement_is_positive_where_predictions_differ(inputs: Inputs) -> None:
    component, (view,) = PredictionDisagreement(VIEW), inputs.requested.values()
    differs = view.argmax(axis=1) != inputs.logits.argmax(axis=1)
    assert 0 < differs.sum() < len(differs)
    assert np.array_equal(component.score(table(component, inputs)) > 0, differs)


def test_the_shift_is_the_distance_of_the_logits(inputs: Inputs) -> None:
    component, (view,) = LogitShift(VIEW), inputs.requested.values()
    expected = np.linalg.norm(view.astype(np.float64) - inputs.logits, axis=1)
    np.testing.assert_allclose(component.score(table(component, inputs)), expected, rtol=1e-6)


def test_components_with_the_same_group_compute_it_once(inputs: Inputs) -> None:
    columns = [component.columns(inputs)["outputs"] for component in (PredictionDisagreement(VIEW), LogitShift(VIEW))]
    assert columns[0] is columns[1]


def test_the_distance_of_logits_is_that_to_natural_columns(inputs: Inputs) -> None:
    component = LogitDistance()
    natural = table(component, inputs)
    component.fit(natural, None)
    expected = NaturalColumns.fit(natural.groups["logits"], natural.predicted, 5)
    assert np.array_equal(component.score(natural), expected.distances(natural.groups["logits"], natural.predicted))
