"""Numbers of the components on a case worked by hand or by SciPy."""

import numpy as np
import pytest
from scipy.special import logsumexp

from detector.components.base import ColumnTable, Component, Inputs
from detector.components.companion_outputs import CompanionOutputs
from detector.components.energy import Energy
from detector.components.joint_energy import JointEnergy
from detector.components.logit_shift import LogitShift
from detector.components.logits import LogitDistance
from detector.components.margin_drop import MarginDrop
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_energy import ViewEnergy
from detector.density.natural_columns import NaturalColumns
from detector.features.path_columns import Outputs, class_margins
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.features import Features
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


def test_the_energy_of_all_passes_is_a_sum(inputs: Inputs) -> None:
    (view,) = inputs.requested.values()
    component = JointEnergy([ViewLogits(VIEW), ViewLogits(VIEW)])
    expected = -logsumexp(inputs.logits, axis=1) - 2 * logsumexp(view, axis=1)
    np.testing.assert_allclose(component.score(table(component, inputs)), expected, rtol=1e-6)


def test_the_margin_drops_where_other_logits_support_the_class_less() -> None:
    """Margins of 4 and 1 in the network, 2 and -3 in its companion, 6 and 2 in the view; scales 2, 2 and 4."""
    logits = np.array([[5, 1, 0], [0, 2, 1]], np.float32)
    companion = np.array([[2, 0, 0], [3, 0, 1]], np.float32)
    view = np.array([[6, 0, 0], [-3, 0, -2]], np.float32)
    others = [CompanionLogits(), ViewLogits(VIEW)]
    requested = {others[0].name: companion, others[1].name: view}
    component = MarginDrop(others)
    component.prepare(Features(logits, np.zeros((2, 1), np.float32), requested), np.zeros(2, np.int64))
    np.testing.assert_allclose(component.scales_, [2.5, 2.5, 4])
    component.scales_ = np.array([2.0, 2.0, 4.0])
    drop = component.score(table(component, Inputs(logits, np.zeros((2, 1)), requested)))
    np.testing.assert_allclose(drop, [4 / 2 - 0.75 * (2 / 2 + 6 / 4), 1 / 2 - 0.75 * (-3 / 2 + 2 / 4)])


def test_a_single_class_has_a_margin_of_zero() -> None:
    assert np.array_equal(class_margins(Outputs(np.ones((3, 1))), np.zeros(3, np.int64)), np.zeros(3))


def test_outputs_of_an_equal_companion_differ_in_nothing(inputs: Inputs) -> None:
    same = Inputs(inputs.logits, inputs.statistics, {CompanionLogits().name: inputs.logits})
    columns = CompanionOutputs().columns(same)["companion_outputs"]
    np.testing.assert_allclose(columns[:, 0], -class_margins(Outputs(inputs.logits), inputs.logits.argmax(axis=1)))
    np.testing.assert_allclose(columns[:, 1:3], 0, atol=1e-12)
