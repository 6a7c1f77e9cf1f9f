"""Tables of attacks that know the detector."""

from typing import Any

import pytest

from benchmarks.tables.adaptive import random_starts

pytestmark = pytest.mark.slow


def _result(network: str, share: float | None, images: int) -> dict[str, Any]:
    start = {} if share is None else {"random_start": share}  # without flagged images, the report has none
    figures = {"attacks": {"black_box": {"attempted": images, **start}}}
    return {
        "evaluation": {"network": network},
        "adaptive": {
            "transport fitted on carlini_wagner": figures,
            "transport fitted on carlini_wagner, all_class vote alone": figures,
        },
    }


def test_random_starts_have_the_published_share_of_the_same_detector_and_objective() -> None:
    rows = random_starts({"a": _result("pretrained:a", 0.25, 4), "b": _result("pretrained:a-least-action", None, 0)})
    assert rows[2:] == [
        "| cross-entropy | `transport` | 16.5% | 4 | 25.0% (0.6% to 80.6%) |",
        "| cross-entropy | `transport`, all_class vote alone | – | 4 | 25.0% (0.6% to 80.6%) |",
        "| least action | `transport` | 6.8% | 0 | – |",
        "| least action | `transport`, all_class vote alone | – | 0 | – |",
    ]
