"""Splits are disjoint, complete, in proportion, stratified and seeded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.splits import parse_proportions, split_originals
from models.errors import InputError


@given(st.integers(40, 500), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.3, 0.2), (0.9, 0.1)]), st.integers(0, 99))
def test_every_original_is_in_exactly_one_part(count: int, shares: tuple[float, ...], seed: int) -> None:
    labels = np.random.default_rng(seed).geometric(0.4, size=count)
    for given_labels in (None, labels):
        split = split_originals(count, shares, labels=given_labels, seed=seed)
        parts = [split.fit, split.calibrate, split.test]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
        sizes = [len(part) for part in parts if len(part)]
        assert np.allclose(sizes, np.array(shares) * count, atol=1)


def test_each_class_is_split_in_proportion(rng: np.random.Generator, seed: int) -> None:
    labels = rng.permutation(np.repeat(np.arange(7), [100, 50, 200, 10, 33, 77, 30]))
    split = split_originals(500, (0.8, 0.1, 0.1), labels=labels, seed=seed)
    for part, share in ((split.fit, 0.8), (split.calibrate, 0.1), (split.test, 0.1)):
        counts = np.bincount(labels[part], minlength=7)
        assert np.abs(counts - share * np.bincount(labels)).max() < 2


def test_seeded(seed: int) -> None:
    first, again = (split_originals(200, seed=seed) for _ in range(2))
    assert np.array_equal(first.fit, again.fit)
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, split_originals(200, seed=seed + 1).test)


def test_random_within_a_class() -> None:
    """No image's place follows from its position in the data set."""
    chosen = np.zeros(100)
    for seed in range(300):
        chosen[split_originals(100, (0.5, 0.25, 0.25), labels=np.zeros(100, dtype=int), seed=seed).test] += 1
    # 75 expected, standard deviation 7.5; six of them either way.
    assert 30 < chosen.min() < chosen.max() < 120


def test_two_parts_leave_the_calibration_set_empty() -> None:
    split = split_originals(100, (0.9, 0.1))
    assert (len(split.fit), len(split.calibrate), len(split.test)) == (90, 0, 10)


def test_parse() -> None:
    assert parse_proportions("0.8,0.1,0.1") == (0.8, 0.1, 0.1)
    assert parse_proportions("0.9, 0.1") == (0.9, 0.1)


@pytest.mark.parametrize(
    "text", ["0.8,0.1", "0.8,0.1,0.2", "1", "1.0,0.0", "1.2,-0.2", "a,b", "", "0.25,0.25,0.25,0.25", "nan,1"]
)
def test_proportions_that_make_no_split_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_proportions(text)


def test_too_few_images_and_wrong_labels_are_refused() -> None:
    with pytest.raises(InputError, match="every part"):
        split_originals(4, (0.8, 0.1, 0.1))
    with pytest.raises(InputError, match="at least 3"):
        split_originals(2, (0.4, 0.3, 0.3))
    with pytest.raises(InputError, match="labels"):
        split_originals(100, labels=np.zeros(99))


@pytest.mark.parametrize("per_class", [1, 3])
def test_images_of_rare_classes_can_be_in_every_part(per_class: int) -> None:
    """A class of a few images must not be calibrated on with every seed, and another one never."""
    labels = np.repeat(np.arange(60 // per_class), per_class)
    found = np.zeros((len(labels), 3))
    for seed in range(200):
        split = split_originals(len(labels), (0.6, 0.2, 0.2), labels=labels, seed=seed)
        for number, part in enumerate((split.fit, split.calibrate, split.test)):
            found[part, number] += 1
    # 40 expected, standard deviation 5.7; five of them either way.
    assert 10 < found[:, 1:].min() < found[:, 1:].max() < 70
