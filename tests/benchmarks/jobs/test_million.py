from argparse import Namespace

import pytest

from benchmarks.jobs.million import FORWARDS, estimate

INPUTS = Namespace(
    images=100_000, values=150_000, shard_size=256, gflop=10.0, tflops=20.0, price=3.0, decoded=1000.0, gbit=10.0,
    storage=2.0, start_s=60.0,
)  # fmt: skip


def test_minutes_follow_from_the_inputs() -> None:
    row = estimate(10, INPUTS)
    image_s = FORWARDS * 10e9 / 20e12
    assert row["minutes"]["attack"] == pytest.approx(100_000 * image_s / 10 / 60)
    assert row["minutes"]["write"] == pytest.approx(100_000 * 150_000 * 4 / 2e9 / 60)
    assert row["minutes"]["send"] == pytest.approx(100_000 * 150_000 * 8 / 10e9 / 60)
    files = row["own_files"]
    assert files["minutes"] == pytest.approx(10 / 60 + row["minutes"]["attack"] + 256 * image_s / 60 + 1)
    assert files["dollars"] == pytest.approx(files["minutes"] / 60 * 10 * 3)
    assert row["one_sender"]["minutes"] - files["minutes"] == pytest.approx(90 / 60)


def test_more_gpus_move_the_bottleneck_from_the_attack_to_the_folder_or_the_sender() -> None:
    few, many = estimate(1, INPUTS), estimate(1000, INPUTS)
    assert (few["own_files"]["bottleneck"], few["one_sender"]["bottleneck"]) == ("attack", "attack")
    assert (many["own_files"]["bottleneck"], many["one_sender"]["bottleneck"]) == ("write", "decode")
