"""Agreement of surrogates with their detectors."""

from typing import Any

import pytest
import torch

from detector.pipeline import Pipeline
from service.adaptive.agreement import Agreement, Sides
from service.adaptive.surrogate import fitted_surrogate, inputs_and_margins
from service.adaptive.system import System
from tests.conftest import SEED
from tests.service.adaptive.small_systems import BUDGETS

pytestmark = pytest.mark.slow


def test_agreement_is_measured_on_originals_outside_the_fit(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of these originals is in the fit; both sides of the threshold have equal weight."""
    import service.adaptive.surrogate as module

    real, fitted, noisy = module.fit_surrogate, list[torch.Tensor](), images + 0.01

    def fit(inputs: torch.Tensor, margins: torch.Tensor, **options: Any) -> Any:
        fitted.append(inputs)
        return real(inputs, margins, **options)

    monkeypatch.setattr(module, "fit_surrogate", fit)
    system = System(transport)
    _, agreement = fitted_surrogate(system, images, noisy, labels, BUDGETS, SEED)
    assert agreement.originals == 3
    assert agreement.plain.flagged + agreement.plain.passed == 4 * 3
    every = 2 * (BUDGETS.descent_steps // 4)  # of the iterates, in two balls
    assert agreement.descent.flagged + agreement.descent.passed == every * 3
    inputs = inputs_and_margins(system, [images])[0]
    last = fitted[-1]
    absent = [row for row in range(len(images)) if not (last == inputs[row]).all(1).any()]
    assert len(absent) == agreement.originals
    assert Agreement.from_array(agreement.to_array()) == agreement
    assert fitted_surrogate(system, images[:1], noisy[:1], labels[:1], BUDGETS, SEED)[1].originals == 0


def test_agreement_of_both_sides() -> None:
    sides = Sides(flagged=2, flagged_alike=1, passed=98, passed_alike=98)
    assert (sides.balanced, sides.worse) == (0.75, 0.5)
    assert (Sides(0, 0, 4, 3).balanced, Sides(0, 0, 4, 3).worse) == (None, 0.75)
    assert (Sides(0, 0, 0, 0).balanced, Sides(0, 0, 0, 0).worse) == (None, None)
