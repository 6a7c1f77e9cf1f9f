"""Runs: disjoint parts, whole originals, and attacks on a few originals represented in every part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InputError
from service.evaluation.planning.protocols import (
    check_represented,
    chosen_originals,
    default_split,
    outlier_parts,
    runs_of,
)
from service.evaluation.records import Protocol
from service.inputs import split_in_two

SOME = settings(max_examples=30, deadline=None)


@SOME
@given(
    protocol=st.sampled_from(["paper", "sound"]),
    count=st.integers(200, 600),
    limits=st.lists(st.integers(40, 700), max_size=3),
    seed=st.integers(0, 2**31 - 1),
)
def test_parts_are_disjoint_complete_and_hold_every_attack_in_proportion(
    protocol: Protocol, count: int, limits: list[int], seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, count)
    shares = [float(share) for share in default_split(protocol).split(",")]
    for run in runs_of(protocol, labels, limits, runs=2, seed=seed):
        parts = [run.fit, run.calibrate, run.test] if protocol == "sound" else [run.fit, run.test]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
        for limit in limits:
            chosen = chosen_originals(count, limit, seed)
            for part, share in zip(parts, shares, strict=True):
                # A few images by which whole numbers, class by class and set by set, miss the share.
                assert abs(np.isin(chosen, part).sum() - share * len(chosen)) <= 2 * (len(set(limits)) + 1)


@SOME
@given(count=st.integers(1, 300), small=st.integers(1, 300), more=st.integers(0, 300), seed=st.integers(0, 2**31 - 1))
def test_the_originals_of_a_smaller_limit_are_among_those_of_a_larger_one(
    count: int, small: int, more: int, seed: int
) -> None:
    few, many = (chosen_originals(count, limit, seed) for limit in (small, small + more))
    assert len(few) == min(small, count)
    assert np.isin(few, many).all()
    assert np.isin(few, chosen_originals(count, None, seed)).all()


def test_every_run_and_every_seed_is_another_split(seed: int) -> None:
    labels = np.arange(300) % 10
    first, second = runs_of("sound", labels, [], runs=2, seed=seed)
    (other,) = runs_of("sound", labels, [], runs=1, seed=seed + 1)
    (again,) = runs_of("sound", labels, [], runs=1, seed=seed)
    assert not np.array_equal(first.test, second.test)
    assert not np.array_equal(second.test, other.test)
    assert np.array_equal(first.test, again.test)


def test_the_papers_split_has_nothing_to_calibrate_on() -> None:
    (run,) = runs_of("paper", np.arange(100) % 10, [], runs=1)
    assert (len(run.fit), len(run.calibrate), len(run.test)) == (90, 0, 10)


def test_outliers_and_folds_are_disjoint(seed: int) -> None:
    (run,) = runs_of("sound", np.arange(100) % 10, [], runs=1, seed=seed)
    fit, rest = outlier_parts(50, run, None, "sound", seed)
    assert (len(fit), len(rest), len(np.union1d(fit, rest))) == (40, 10, 50)
    one, other = split_in_two(60, 0.5, labels=np.arange(60) % 3, seed=seed)
    assert len(one) == len(other) == 30
    assert not np.isin(one, other).any()


@pytest.mark.parametrize(
    ("protocol", "runs", "split", "message"),
    [
        ("sound", 0, None, "at least one run"),
        ("sound", 1, "0.9,0.1", "--split 0.9,0.1"),
        ("paper", 1, "0.8,0.1,0.1", "0.9,0.1 for --protocol paper"),
        ("paper", 1, "0.8,0.1", "sum to 1"),
    ],
)
def test_splits_of_the_other_protocol_are_refused(protocol: Protocol, runs: int, split: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runs_of(protocol, np.arange(100) % 10, [], runs=runs, split=split)


def test_too_few_attacked_originals_are_refused() -> None:
    runs = runs_of("sound", np.arange(100) % 10, [1], runs=4)
    with pytest.raises(InputError, match=r"images of boundary to (fit|test) on .* 1 originals are too few"):
        check_represented(runs, {"fgm": np.arange(100), "boundary": chosen_originals(100, 1, 0)})
    with pytest.raises(InputError, match="limit of at least one"):
        chosen_originals(100, 0, 0)
