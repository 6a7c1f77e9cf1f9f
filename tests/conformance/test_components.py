"""Conformance suite of components, run on every file in detector/components."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from detector.classifiers.conditional import ClassifierOptions
from detector.common.array_api import float32_columns
from detector.components.base import ColumnTable, Component, Inputs, Sizes
from detector.components.class_distances import ClassDistances
from models.errors import InputError
from models.features import FeatureRequest, Features
from models.images.views import View
from models.registry import COMPONENTS
from tests.conformance.made_up import CLASSES, features_of

# What constructors take, by the names of their parameters; every other parameter has a default.
ARGUMENTS: dict[str, Any] = {
    "embeddings": lambda: ClassDistances("embeddings"),
    "residues": lambda: ClassDistances("residues"),
    "view": lambda: View.parse("shift1"),
    "options": lambda: ClassifierOptions("logistic_regression"),
    "columns": lambda: ("statistics",),
}


def make(name: str) -> Component:
    """A component that has learned nothing."""
    kind = COMPONENTS.load(name)
    parameters = inspect.signature(kind.__init__).parameters
    given = {
        each: ARGUMENTS[each]() for each, p in parameters.items() if each in ARGUMENTS and p.kind is not p.VAR_KEYWORD
    }
    component: Component = kind(**given)
    return component


class Together:
    """A component with its references."""

    def __init__(self, component: Component) -> None:
        self.component, self.parts = component, (*component.references(), component)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        return tuple(dict.fromkeys(request for part in self.parts for request in part.feature_requests()))

    def features(self, rng: np.random.Generator, odd: np.ndarray) -> Features:
        return features_of(self, rng, odd)

    def natural(self, rng: np.random.Generator, count: int = 150) -> Features:
        return self.features(rng, np.zeros(count, dtype=bool))

    def fitted(self, rng: np.random.Generator) -> Component:
        reference = self.natural(rng)
        for part in self.parts:
            part.prepare(reference, reference.predicted)
        self.component.fit(self.table(self.natural(rng)), self.table(self.features(rng, np.ones(90, dtype=bool))))
        return self.component

    def table(self, features: Features) -> ColumnTable:
        columns = {"statistics": features.statistics, **self.component.columns(Inputs(*features))}
        float32 = {name: float32_columns(values) for name, values in columns.items()}
        return ColumnTable(float32, features.predicted, CLASSES)

    def sizes(self, features: Features) -> Sizes:
        groups = self.table(features).groups
        return Sizes(
            CLASSES, Inputs(*features.take(np.arange(0))), tuple(self.component.groups),
            {name: values.shape[1] for name, values in groups.items()},
        )  # fmt: skip


@pytest.fixture(params=COMPONENTS.names())
def together(request: pytest.FixtureRequest) -> Together:
    """A component that has learned nothing, with its references."""
    return Together(make(request.param))


@pytest.fixture
def fitted(together: Together, rng: np.random.Generator) -> Component:
    """The component, prepared and fitted."""
    return together.fitted(rng)


@pytest.fixture
def mixed(together: Together, rng: np.random.Generator) -> Features:
    """Features of 20 natural and 20 odd images, mixed."""
    return together.features(rng, rng.permutation(np.arange(40) % 2 == 0))


def tensors(features: Features) -> tuple[Inputs, list[torch.Tensor]]:
    """Inputs as tensors, and these tensors, which require gradients."""
    logits, statistics = (torch.from_numpy(each).requires_grad_(True) for each in features[:2])
    requested = {name: torch.from_numpy(each).requires_grad_(True) for name, each in features.requested.items()}
    return Inputs(logits, statistics, requested), [logits, statistics, *requested.values()]


def test_name_is_the_files(together: Together) -> None:
    assert COMPONENTS.load(together.component.name) is type(together.component)


def test_every_value_has_a_title_and_a_description(together: Together, fitted: Component, mixed: Features) -> None:
    infos = fitted.info()
    assert all(info.title and info.description and "\n" not in info.description for info in infos.values())
    if fitted.in_score and (values := fitted.values(together.table(mixed))):
        assert list(values) == list(infos)


def test_columns_are_the_groups(together: Together, fitted: Component, mixed: Features) -> None:
    columns = fitted.columns(Inputs(*mixed))
    assert set(columns) == set(fitted.groups)
    for values in columns.values():
        assert values.ndim == 2
        assert len(values) == len(mixed.logits)
        assert np.isfinite(values).all()
    if columns:
        widths = {name: values.shape[1] for name, values in fitted.columns(Inputs(*mixed.take(np.arange(0)))).items()}
        assert widths == {name: values.shape[1] for name, values in columns.items()}
        assert fitted.width(together.sizes(mixed)) == sum(widths.values())


def test_odd_images_have_larger_numbers(together: Together, fitted: Component, rng: np.random.Generator) -> None:
    if not fitted.in_score:
        pytest.skip("columns only")
    if fitted.name == "core":
        pytest.skip("needs embeddings whose classes differ where the weights ignore it; see test_outliers.py")
    numbers = [fitted.score(together.table(together.features(rng, np.full(60, odd)))) for odd in (False, True)]
    assert all(each.shape == (60,) and each.dtype == np.float64 and np.isfinite(each).all() for each in numbers)
    assert (numbers[0][:, None] < numbers[1][None, :]).mean() > 0.9


def test_an_image_does_not_depend_on_those_beside_it(together: Together, fitted: Component, mixed: Features) -> None:
    whole = together.table(mixed)
    for row in (0, 7, 39):
        alone = together.table(mixed.take(np.array([row])))
        for name, values in whole.groups.items():
            assert np.array_equal(alone.groups[name][0], values[row])
        if fitted.in_score:
            assert fitted.score(alone)[0] == fitted.score(whole)[row]


def test_tensors_give_the_same_columns_and_numbers(together: Together, fitted: Component, mixed: Features) -> None:
    if not fitted.differentiable:
        pytest.skip("not differentiable")
    inputs, _ = tensors(mixed)
    columns = fitted.columns(inputs)
    for name, values in fitted.columns(Inputs(*mixed)).items():
        np.testing.assert_allclose(columns[name].detach().numpy(), values, rtol=1e-5, atol=1e-5)
    if fitted.in_score:
        table = together.table(mixed)
        tensor_table = ColumnTable(
            {name: torch.from_numpy(values) for name, values in table.groups.items()},
            torch.from_numpy(table.predicted), CLASSES,
        )  # fmt: skip
        np.testing.assert_allclose(fitted.score(tensor_table).numpy(), fitted.score(table), rtol=1e-6, atol=1e-9)


def test_tensors_have_finite_gradients(fitted: Component, mixed: Features) -> None:
    if not fitted.differentiable:
        pytest.skip("not differentiable")
    inputs, leaves = tensors(mixed)
    columns: Mapping[str, torch.Tensor] = fitted.columns(inputs)
    if fitted.in_score:
        total = fitted.score(ColumnTable(columns, inputs.logits.argmax(dim=1), CLASSES)).sum()
    else:
        total = sum((values.sum() for values in columns.values()), torch.zeros(()))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    given = [gradient for gradient in gradients if gradient is not None]
    assert given
    assert all(bool(torch.isfinite(gradient).all()) for gradient in given)
    assert any(bool((gradient != 0).any()) for gradient in given)


def test_state_round_trip(together: Together, fitted: Component, mixed: Features) -> None:
    again = Together(make(fitted.name))
    sizes = together.sizes(mixed)
    for old, new in zip(together.parts, again.parts, strict=True):
        new.restore(old.state(), sizes)
    for name, values in together.table(mixed).groups.items():
        assert np.array_equal(again.table(mixed).groups[name], values)
    if fitted.in_score:
        assert np.array_equal(again.component.score(again.table(mixed)), fitted.score(together.table(mixed)))


def test_damaged_states_are_refused(together: Together, fitted: Component, mixed: Features) -> None:
    sizes, state = together.sizes(mixed), fitted.state()
    damaged = [state | {"unknown": np.zeros(1)}]
    for name, array in state.items():
        damaged.append({other: values for other, values in state.items() if other != name})
        if array.dtype.kind == "f":
            damaged += [state | {name: np.full_like(array, np.nan)}, state | {name: array[..., None]}]
    for each in damaged:
        again = Together(make(fitted.name))
        for old, new in zip(together.parts[:-1], again.parts[:-1], strict=True):
            new.restore(old.state(), sizes)
        with pytest.raises(InputError):
            again.component.restore(each, sizes)
