"""Figures of adaptive attacks, from hand-made results."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from service.adaptive.agreement import Agreement, Sides
from service.adaptive.records import FOOLED, AdaptiveAttacks, AdaptiveSet
from service.adaptive.summary import adaptive_figures


def made_by_hand(count: int, **changes: Any) -> AdaptiveAttacks:
    """Results without evasions, on images that are classified correctly, accepted, and fooled and detected."""

    def nothing(name: str, epsilon: float | None) -> AdaptiveSet:
        no, zeros, none = np.zeros(count, np.bool_), np.zeros(count), np.zeros(count, np.int64)
        return AdaptiveSet(
            name, epsilon, np.zeros((count, 3, 2, 2), np.float32), ~no, no, no, zeros, zeros, None, none, none, {}
        )

    kinds = ("selective", "orthogonal")
    budgeted = tuple(nothing(kind, epsilon) for kind in kinds for epsilon in (0.1, 0.2))
    found = AdaptiveAttacks(
        right=np.ones(count, np.bool_),
        flagged=np.zeros(count, np.bool_),
        fooled=np.ones(count, np.bool_),
        detected=np.ones(count, np.bool_),
        fooled_linf=np.full(count, 0.05),
        fooled_l2=np.full(count, 0.3),
        sets=(nothing("black_box", None), nothing("whole_system", None), *budgeted),
        unlimited=tuple(nothing(kind, 1.0) for kind in kinds),
        few_steps=tuple(nothing(kind, 0.2) for kind in kinds),
        surrogate="exact",
        skipped={},
    )
    return dataclasses.replace(found, **changes)


def with_find(one: AdaptiveSet, row: int, linf: float, l2: float) -> AdaptiveSet:
    evaded, near, far = one.evaded.copy(), one.linf.copy(), one.l2.copy()
    evaded[row], near[row], far[row] = True, linf, l2
    return dataclasses.replace(one, evaded=evaded, linf=near, l2=far)


@pytest.mark.parametrize(
    ("field", "index"),
    [(field, index) for field, count in (("sets", 6), ("unlimited", 2), ("few_steps", 2)) for index in range(count)],
)
def test_evasion_by_any_attack_counts_against_robustness(field: str, index: int) -> None:
    found = made_by_hand(4)
    sets = list(getattr(found, field))
    sets[index] = with_find(sets[index], 2, 0.08, 0.7)
    figures = adaptive_figures(
        dataclasses.replace(found, **{field: tuple(sets)}), l2_limits=(0.5, 1.0), linf_limits=(0.07, 0.1)
    )
    assert [row["robust"] for row in figures["robustness"]] == [0.75, 0.75]
    assert (figures["union"]["evaded"], figures["union"]["attempted"]) == (1, 4)
    earlier = {"attempted": "started", "evaded": "turned"}
    assert all(figures["union"][old] == figures["union"][new] for new, old in earlier.items())
    assert (figures["union"]["linf_median"], figures["union"]["l2_median"]) == (0.08, 0.7)
    assert [row["evaded"] for row in figures["union"]["within"]] == [0, 1, 0, 1]


def test_only_evasions_within_the_distance_count_against_robustness() -> None:
    found = made_by_hand(4)
    sets = (with_find(found.sets[0], 0, 0.15, 1.0), *found.sets[1:])
    figures = adaptive_figures(dataclasses.replace(found, sets=sets), l2_limits=(1.0,), linf_limits=(0.1,))
    assert [(row["epsilon"], row["robust"]) for row in figures["robustness"]] == [(0.1, 1.0), (0.2, 0.75)]


def test_right_or_flagged_is_the_worst_case_over_attacks_beside_the_network_alone() -> None:
    # Image 0 is evaded by one attack, 1 is flagged and right, 2 is wrong and flagged, 3 is fooled alone.
    right = np.array([True, True, False, True])
    found = made_by_hand(4, right=right, flagged=np.array([False, True, True, False]))
    sets = (with_find(found.sets[0], 0, 0.08, 0.7), *found.sets[1:])
    alone = [
        dataclasses.replace(sets[2], name="network", epsilon=epsilon, extra={FOOLED: np.array(fooled)})
        for epsilon, fooled in ((0.05, [True, False, False, False]), (0.1, [False, True, False, True]))
    ]
    figures = adaptive_figures(dataclasses.replace(found, sets=(*sets, *alone)), l2_limits=(1.0,), linf_limits=(0.1,))
    small, large = figures["robustness"]
    assert [row["epsilon"] for row in (small, large)] == [0.1, 0.2]
    assert (small["robust"], small["right_or_flagged"]) == (0.25, 0.5)
    assert (small["network"], small["network_half"]) == (0.0, 0.5)  # a smaller budget is within a larger one
    assert (large["network"], large["network_half"]) == (None, 0.0)
    assert "The network alone is right on 0.0%" in small["sentence"]
    assert [row["network_fooled"] for row in figures["attacks"]["network"]["budgets"]] == [0.25, 0.5]


def test_undetected_images_of_carlini_and_wagner_count_against_robustness() -> None:
    detected = np.array([True, False, True, False])
    found = made_by_hand(4, detected=detected, fooled_linf=np.array([0.05, 0.05, 0.05, 0.15]))
    figures = adaptive_figures(found, l2_limits=(1.0,), linf_limits=(0.1,))
    assert [row["robust"] for row in figures["robustness"]] == [0.75, 0.5]
    assert figures["union"]["evaded"] == 2
    without = made_by_hand(4, fooled=None, detected=None, fooled_linf=None, fooled_l2=None)
    assert adaptive_figures(without, l2_limits=(1.0,), linf_limits=(0.1,))["union"]["evaded"] == 0


def test_medians_are_over_evaded_images_and_the_union_takes_the_nearest() -> None:
    found = made_by_hand(3)
    small, large = found.sets[2], found.sets[3]
    sets = (
        with_find(found.sets[0], 0, 0.3, 0.2),
        found.sets[1],
        with_find(small, 0, 0.1, 0.9),
        with_find(with_find(large, 0, 0.2, 1.9), 1, 0.2, 1.5),
        *found.sets[4:],
    )
    figures = adaptive_figures(dataclasses.replace(found, sets=sets), l2_limits=(1.0,), linf_limits=(0.1,))
    rows = figures["attacks"]["selective"]["budgets"]
    assert [(row["evaded"], row["l2_median"]) for row in rows] == [(1, 0.9), (2, 1.2)]
    assert rows[1]["linf_median"] == pytest.approx(0.15)
    assert figures["union"]["l2_median"] == pytest.approx((0.2 + 1.5) / 2)
    assert figures["union"]["linf_median"] == pytest.approx((0.1 + 0.2) / 2)


def test_unconfirmed_images_of_checks_cause_a_warning() -> None:
    found = made_by_hand(2)
    not_confirmed = np.array([True, False])
    unlimited = (dataclasses.replace(found.unlimited[0], not_confirmed=not_confirmed), found.unlimited[1])
    figures = adaptive_figures(dataclasses.replace(found, unlimited=unlimited), l2_limits=(1.0,), linf_limits=(0.1,))
    assert figures["attacks"]["selective"]["unlimited"]["not_confirmed"] == 1
    assert any(text.startswith("selective, no budget: 1 images passed") for text in figures["warnings"])


def test_poor_surrogate_causes_a_warning() -> None:
    good, poor, one_sided = Sides(10, 10, 10, 10), Sides(10, 5, 90, 90), Sides(0, 0, 20, 20)

    def warnings(plain: Sides, descent: Sides) -> list[str]:
        found = made_by_hand(3, surrogate=Agreement(5, plain, descent), unlimited=(), few_steps=(), sets=())
        return list(adaptive_figures(found, l2_limits=(1.0,), linf_limits=(0.1,))["warnings"])

    assert warnings(good, good) == []
    (warning,) = warnings(good, poor)
    assert "one selective descent against the final surrogate" in warning
    assert "50%" in warning
    assert "Carlini" in warnings(poor, good)[0]
    assert "flagged 0 and passed 20" in warnings(good, one_sided)[0]
