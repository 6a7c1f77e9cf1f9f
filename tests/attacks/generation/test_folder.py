"""Folders of attacked images: the same bytes from every runner, resumed, checked, and read image by image."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise
from attacks.fgm import FGM
from attacks.generation.folder import AttackedFolder, attack_into
from attacks.pgd import PGD
from models.errors import AttackError, InputError, RunnerError
from models.runners import build_runner
from tests.attacks.digits import Digits

SHARD = 24  # 64 images are two whole shards and a rest

ATTACK = PGD(steps=3, epsilon=0.1)


class Pixels:
    """The network of the digits with 8-bit images."""

    def __init__(self, digits: Digits) -> None:
        self.network, self.labels = digits.network, digits.labels.numpy()
        self.images: NDArray[np.uint8] = (digits.images * 255).round().to(torch.uint8).numpy()

    def attacked(self, folder: Path, attack: Attack = ATTACK, **options: Any) -> list[dict[str, Any]]:
        given = {"runner": build_runner("local"), "shard_size": SHARD, "progress": False} | options
        return attack_into(folder, self.network, attack, self.images, self.labels, **given)

    def part(self, number: int) -> "Pixels":
        """The images of one shard."""
        part, rows = copy.copy(self), slice(number * SHARD, (number + 1) * SHARD)
        part.images, part.labels = self.images[rows], self.labels[rows]
        return part


@pytest.fixture
def pixels(digits_network: Digits) -> Pixels:
    return Pixels(digits_network)


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*/shard-*.safetensors")}


def test_bytes_do_not_depend_on_the_runner_or_the_order(pixels: Pixels, tmp_path: Path) -> None:
    records = pixels.attacked(tmp_path / "one")
    assert [record["n"] for record in records] == [24, 24, 16]
    pixels.attacked(tmp_path / "two", runner=build_runner("local", workers=2))
    for number in (2, 0, 1):
        (record,) = pixels.part(number).attacked(tmp_path / "parts", runner=build_runner("array"))
        assert record == {**records[number], "seconds": record["seconds"]}
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "two") == shards_of(tmp_path / "parts")
    assert len(shards_of(tmp_path / "one")) == 3


def test_shards_are_ranges_of_positions_in_the_source(pixels: Pixels, tmp_path: Path) -> None:
    positions = np.delete(np.arange(64 + 3), [2, 23, 25])  # three images could not be decoded
    records = pixels.attacked(tmp_path, FGM(), positions=positions)
    assert [record["n"] for record in records] == [22, 23, 19]
    rows = np.flatnonzero(positions >= SHARD)
    pixels.images, pixels.labels = pixels.images[rows], pixels.labels[rows]
    again = pixels.attacked(tmp_path, FGM(), positions=positions[rows])
    assert [(record["n"], record["kept"]) for record in again] == [(23, True), (19, True)]


def test_intact_shards_are_kept_and_damaged_ones_are_attacked_again(pixels: Pixels, tmp_path: Path) -> None:
    pixels.attacked(tmp_path)
    before = shards_of(tmp_path)
    assert [record["kept"] for record in pixels.attacked(tmp_path)] == [True, True, True]
    first, second, third = sorted(tmp_path.glob("*/shard-*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(third.read_bytes())
    third.with_suffix(".json").unlink()
    assert not any(record["kept"] for record in pixels.attacked(tmp_path))
    assert shards_of(tmp_path) == before


def test_shards_of_another_attack_are_not_kept(pixels: Pixels, tmp_path: Path) -> None:
    pixels.attacked(tmp_path / "other", PGD(steps=1, epsilon=0.1))
    pixels.attacked(tmp_path / "own")
    before = shards_of(tmp_path / "own")
    own = next((tmp_path / "own").iterdir())
    for path in (tmp_path / "other").glob("*/shard-*"):
        (own / path.name).write_bytes(path.read_bytes())
    assert not any(record["kept"] for record in pixels.attacked(tmp_path / "own"))
    assert shards_of(tmp_path / "own") == before


class Killed(PGD):
    """A PGD whose process is killed once: when it finds the marker, which it deletes."""

    marker: Path | None = None

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        if self.marker is not None and self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), 9)
        return super().run(network, images, labels, noise)


def test_a_killed_worker_leaves_whole_shards_and_the_same_call_continues(pixels: Pixels, tmp_path: Path) -> None:
    attack = Killed(steps=3, epsilon=0.1)
    pixels.attacked(tmp_path / "undisturbed", attack)
    attack.marker = tmp_path / "marker"
    attack.marker.touch()
    with pytest.raises(RunnerError, match="run the same command again"):
        pixels.attacked(tmp_path / "killed", attack, runner=build_runner("local", workers=2))
    assert shards_of(tmp_path / "killed").items() <= shards_of(tmp_path / "undisturbed").items()
    pixels.attacked(tmp_path / "killed", attack)
    assert shards_of(tmp_path / "killed") == shards_of(tmp_path / "undisturbed")


class Failing(FGM):
    """An FGM that fails on images whose first pixel is white."""

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        if (images[:, 0, 0, 0] == 1).any():
            raise ZeroDivisionError("division by zero")
        return super().run(network, images, labels, noise)


def test_an_image_that_makes_the_attack_fail_is_quarantined(pixels: Pixels, tmp_path: Path) -> None:
    pixels.images[:, 0, 0, 0] = 0
    pixels.images[[3, 17, 30], 0, 0, 0] = 255
    attack = Failing(epsilon=0.1)
    reason = "ZeroDivisionError: division by zero"
    quarantined = [record["quarantined"] for record in pixels.attacked(tmp_path, attack)]
    assert quarantined == [{"3": reason, "17": reason}, {"6": reason}, {}]
    made = AttackedFolder(tmp_path, pixels.network, attack).read(pixels.images, pixels.labels)
    assert sorted(np.flatnonzero(made.linf == 0)) == [3, 17, 30]
    assert not made.success[[3, 17, 30]].any()
    pixels.images[:, 0, 0, 0] = 255
    with pytest.raises(AttackError, match=r"more than half of 24 images.*division by zero"):
        pixels.attacked(tmp_path, attack)


def test_any_of_the_images_are_read_in_any_order(pixels: Pixels, tmp_path: Path, rng: np.random.Generator) -> None:
    records = pixels.attacked(tmp_path)
    folder = AttackedFolder(tmp_path, pixels.network, ATTACK)
    whole = folder.read(pixels.images, pixels.labels)
    assert sum(record["successes"] for record in records) == whole.success.sum()
    assert whole.linf.max() == pytest.approx(0.1, abs=1e-6)
    with torch.no_grad():
        attacked = pixels.network(torch.from_numpy(np.array(whole.images))).argmax(1).numpy()
    np.testing.assert_array_equal(attacked == pixels.labels, whole.attacked_correct)
    rows = rng.permutation(64)[:20]
    some = folder.read(pixels.images[rows], pixels.labels[rows])
    for name in ("images", "labels", "natural_correct", "attacked_correct", "linf", "l2"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[rows])


def test_another_network_attack_or_seed_is_refused_with_the_difference(pixels: Pixels, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images of PGD.* on this network; run `plumbline attack`"):
        AttackedFolder(tmp_path, pixels.network, ATTACK)
    pixels.attacked(tmp_path)
    for attack, message in (
        (PGD(steps=3, epsilon=0.1, seed=1), r"differ in seed \(0, not 1\);"),
        (PGD(steps=4, epsilon=0.1), r"differ in steps \(3, not 4\);"),
        (FGM(epsilon=0.1), r"differ in attack \(attacks.pgd.PGD, not attacks.fgm.FGM\)"),
    ):
        with pytest.raises(InputError, match=message):
            AttackedFolder(tmp_path, pixels.network, attack)
    with torch.no_grad():
        next(iter(pixels.network.parameters())).view(-1)[0] += 1e-3
    with pytest.raises(InputError, match="differ in network;"):
        AttackedFolder(tmp_path, pixels.network, ATTACK)


def test_the_same_images_may_be_attacked_with_several_labels(pixels: Pixels, tmp_path: Path) -> None:
    images, labels = pixels.images[:20], pixels.labels[:20]
    for given in (labels, (labels + 1) % 10):
        attack_into(tmp_path, pixels.network, ATTACK, images, given, runner=build_runner("local"), progress=False)
    folder = AttackedFolder(tmp_path, pixels.network, ATTACK)
    for given in (labels, (labels + 1) % 10):
        assert folder.read(images, given).labels.tolist() == given.tolist()
    assert folder.read(images, labels).success.any()


def test_images_that_were_not_attacked_and_damaged_shards_are_refused(pixels: Pixels, tmp_path: Path) -> None:
    pixels.part(0).attacked(tmp_path)
    folder = AttackedFolder(tmp_path, pixels.network, ATTACK)
    with pytest.raises(InputError, match="40 of 64 images are not in"):
        folder.read(pixels.images, pixels.labels)
    with pytest.raises(InputError, match="with other labels"):
        folder.read(pixels.images[:5], (pixels.labels[:5] + 1) % 10)
    (shard,) = tmp_path.glob("*/shard-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged: .*run the same `plumbline attack` again"):
        folder.read(pixels.images[:5], pixels.labels[:5])


def test_records_state_the_sizes_and_the_file(pixels: Pixels, tmp_path: Path) -> None:
    pixels.attacked(tmp_path, metadata={"note": "of a test"})
    for path in tmp_path.glob("*/shard-*.json"):
        record = json.loads(path.read_bytes())
        assert {"shard", "sha256", "n", "success_rate", "linf", "l2", "seconds", "quarantined", "note"} <= record.keys()
        assert record["shard"] in path.name
