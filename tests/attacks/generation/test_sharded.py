"""Attacks by a runner when their images are needed: only missing shards are attacked, and no other shards are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from attacks import generate
from attacks.fgm import FGM
from attacks.generation.sharded import ShardedAttack
from attacks.pgd import PGD
from models.runners import build_runner
from tests.attacks.digits import Digits
from tests.attacks.generation.test_folder import SHARD, Failing, Pixels


def test_missing_shards_are_attacked_and_intact_ones_are_kept(digits_network: Digits, tmp_path: Path) -> None:
    pixels, attack = Pixels(digits_network), FGM(epsilon=0.1)
    made = ShardedAttack(tmp_path, pixels.network, attack, build_runner("local"), shard_size=SHARD)
    first = made.read(pixels.images, pixels.labels, progress=False)
    files = sorted(tmp_path.glob("*/shard-*.safetensors"))
    assert len(files) == 3
    files[0].unlink()
    times = [path.stat().st_mtime_ns for path in files[1:]]
    second = made.read(pixels.images, pixels.labels, progress=False)
    assert [path.stat().st_mtime_ns for path in files[1:]] == times
    expected = generate(pixels.network, pixels.images, pixels.labels, attack, progress=False)
    for each in (first, second):
        for name in ("images", "natural_correct", "attacked_correct", "linf"):
            np.testing.assert_array_equal(getattr(each, name), getattr(expected, name))


def test_shards_of_other_jobs_in_the_folder_are_not_read(digits_network: Digits, tmp_path: Path) -> None:
    pixels = Pixels(digits_network)
    alone, shared = (
        ShardedAttack(tmp_path / name, pixels.network, PGD(steps=2, epsilon=0.1), build_runner("local"))
        for name in ("alone", "shared")
    )
    expected = alone.read(pixels.images, pixels.labels, progress=False)
    for size in (8, 16):  # other shards have other random starts
        replace(shared, shard_size=size).read(pixels.images, pixels.labels, progress=False)
    np.testing.assert_array_equal(shared.read(pixels.images, pixels.labels, progress=False).images, expected.images)


def test_an_image_on_which_the_attack_fails_is_unchanged(digits_network: Digits, tmp_path: Path) -> None:
    pixels = Pixels(digits_network)
    pixels.images[:, 0, 0, 0] = 0
    pixels.images[5, 0, 0, 0] = 255
    made = ShardedAttack(tmp_path, pixels.network, Failing(epsilon=0.1), build_runner("local"), shard_size=SHARD)
    attacked = made.read(pixels.images, pixels.labels, progress=False)
    assert np.flatnonzero(attacked.linf == 0).tolist() == [5]
    assert not attacked.success[5]
