"""Series and their state: warnings, pages, keys, classes, restarts."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.calibration import Calibration
from models.errors import InputError
from service.monitoring.model_watch import ALL, MAX_KEYS, MIN_CLASS_IMAGES, ModelWatch
from service.monitoring.series import BLOCK, MAX_BLOCKS, Series
from service.monitoring.urn import FlagTest

CALIBRATION = Calibration(np.arange(1000.0), 0.05)


def series() -> Series:
    return Series.of(CALIBRATION, pages=True)


def series_of_zero_weight() -> dict[str, object]:
    return asdict(series().distribution) | {"weight": 0.0}


def feed(each: Series, ranks: np.ndarray) -> list[str]:
    return [change for rank in ranks.tolist() for change in each.add(rank, rank <= each.flagged_ranks)]


def test_matching_images_change_nothing_and_doubled_flags_warn_and_page(rng: np.random.Generator) -> None:
    watched = series()
    assert feed(watched, np.resize(rng.permutation(np.arange(1, 1002)), 3003)) == []
    assert watched.level == "ok"
    ranks = np.where(rng.random(5000) < 0.2, rng.integers(1, 51, 5000), rng.integers(51, 1002, 5000))
    assert set(feed(watched, ranks)) == {"flags", "distribution", "page"}
    assert watched.level == "page"
    # The page ends when the flags do, and the warnings stay.
    assert feed(watched, rng.integers(51, 1002, 2000)) == ["page_end"]
    assert watched.level == "warning"


def test_another_distribution_with_the_same_flag_rate_warns(rng: np.random.Generator) -> None:
    watched = series()
    ranks = np.where(rng.random(5000) < 0.05, rng.integers(1, 51, 5000), rng.integers(51, 400, 5000))
    assert feed(watched, ranks) == ["distribution"]


def test_the_state_is_bounded(rng: np.random.Generator) -> None:
    watched = series()
    feed(watched, rng.integers(1, 1002, BLOCK * (MAX_BLOCKS + 5)))
    assert len(watched.blocks) == MAX_BLOCKS
    assert len(json.dumps(watched.to_json())) < 4000


@settings(deadline=None, max_examples=20)  # the first example computes the rule
@given(st.lists(st.integers(1, 1001), max_size=30), st.lists(st.integers(1, 1001), max_size=30))
def test_a_restored_series_continues_as_if_nothing_had_happened(before: list[int], after: list[int]) -> None:
    whole, first = series(), series()
    feed(whole, np.array(before + after, int))
    feed(first, np.array(before, int))
    second = series().restored(json.loads(json.dumps(first.to_json())))
    feed(second, np.array(after, int))
    assert second.to_json() == whole.to_json()
    assert second.summary() == whole.summary()


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": 500},
        {"flags": None},
        {"flags": asdict(FlagTest(50, 1001, bets=[1.0]))},
        {"flags": asdict(FlagTest(50, 1001, waiting=math.nan))},
        {"histogram": [1]},
        {"warned": 3},
        {"images": "x"},
        {"flags": asdict(FlagTest(50, 1001)) | {"images": "x"}},
        {"flags": asdict(FlagTest(0, 0))},
        {"flags": asdict(FlagTest(50, 1001, images=-200))},
        {"distribution": series_of_zero_weight()},
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    state = series().to_json() | change
    with pytest.raises(InputError, match="the state is"):
        series().restored(state)


def add(watch: ModelWatch, rank: int, *, key: str | None = None, label: int = 0, score: float = 0.0) -> list[str]:
    changes = watch.add(p_value=rank / 1001, flagged=rank <= 50, score=score, label=label, key=key)
    return [f"{name} {change}" for name, _, change in changes]


def test_keys_are_bounded_and_the_longest_unused_one_leaves() -> None:
    watch = ModelWatch(CALIBRATION)
    for number in range(MAX_KEYS):
        add(watch, 500, key=f"{number}")
    add(watch, 500, key="0")
    add(watch, 500, key="new")
    assert len(watch.keys) == MAX_KEYS
    assert {"0", "new"} <= set(watch.keys)
    assert "1" not in watch.keys
    assert watch.all.images == MAX_KEYS + 2


def test_one_key_warns_while_the_others_do_not(rng: np.random.Generator) -> None:
    watch = ModelWatch(CALIBRATION)
    changes = []
    for rank in np.resize(rng.permutation(np.arange(1, 1002)), 3003).tolist():
        changes += add(watch, rank, key="good")
        if rank % 7 == 0:
            changes += add(watch, 1 + rank // 10, key="bad")
    assert "key:bad flags" in changes
    assert not [change for change in changes if change.startswith("key:good")]
    assert not [change for change in changes if change.startswith("key:") and change.endswith("page")]


def test_a_class_is_compared_with_its_own_calibration_images(rng: np.random.Generator) -> None:
    # Class 1 has larger scores than class 0: all flags are of class 1, without any fault.
    scores = np.concatenate([rng.random(500), 1 + rng.random(500), 2 + rng.random(MIN_CLASS_IMAGES - 1)])
    predicted = np.repeat([0, 1, 2], [500, 500, MIN_CLASS_IMAGES - 1])
    calibration = Calibration(scores, 0.1, predicted)
    watch = ModelWatch(calibration)
    assert set(watch.classes) == {0, 1}  # class 2 has too few images

    def changes(label: int, values: np.ndarray) -> list[str]:
        found = []
        for score in values.tolist():
            p_value, flagged = calibration.p_values(np.array([score]))[0], bool(calibration.flags(np.array([score]))[0])
            new = watch.add(p_value=p_value, flagged=flagged, score=score, label=label, key=None)
            found += [f"{name} {change}" for name, _, change in new if name != ALL]
        return found

    assert changes(1, np.resize(rng.permutation(calibration.scores[calibration.predicted == 1]), 1000)) == []
    assert "class:0 flags" in changes(0, 0.8 + rng.random(600))


def test_a_restored_watch_has_the_same_series() -> None:
    watch = ModelWatch(Calibration(np.arange(1000.0), 0.05, np.arange(1000) % 2))
    for rank in range(1, 300):
        add(watch, rank, key=f"{rank % 3}", label=rank % 2, score=float(1000 - rank))
    again = ModelWatch(Calibration(np.arange(1000.0), 0.05, np.arange(1000) % 2))
    again.restored(json.loads(json.dumps(watch.to_json())))
    assert again.to_json() == watch.to_json()
    assert list(again.keys) == list(watch.keys)
    with pytest.raises(InputError, match="unknown series"):
        ModelWatch(CALIBRATION).restored({"other": {}})
