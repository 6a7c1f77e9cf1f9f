"""Generation of attacked sets: cached, resumed after interruptions, checked."""

import errno
import importlib.util
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import AttackedSet, generate
from attacks.apgd import APGD
from attacks.common.base import Attack, ImageNoise
from attacks.common.digests import network_digest
from attacks.fgm import FGM
from attacks.pgd import PGD
from models.errors import AttackError, InputError, RunnerError
from models.images import stored
from models.loading import load_network
from tests.attacks.digits import Digits

SHARD = 24  # 64 images are two whole shards and a rest


class Counting(FGM):
    """FGM that counts its batches and can stop after some of them."""

    batches = 0
    stop_after: int | None = None

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        if Counting.stop_after == Counting.batches:
            raise KeyboardInterrupt
        Counting.batches += 1
        return super().run(network, images, labels, noise)


@pytest.fixture(autouse=True)
def _fresh_count() -> None:
    Counting.batches, Counting.stop_after = 0, None


def _generate(digits: Digits, attack: Attack, cache: Path | None = None, **options: Any) -> AttackedSet:
    options = {"shard_size": SHARD, "progress": False} | options
    return generate(digits.network, digits.images, digits.labels, attack, cache=cache, **options)


def _shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/shard-*.safetensors"))


def _assert_same(first: AttackedSet, second: AttackedSet) -> None:
    for name in ("images", "labels", "natural_correct", "attacked_correct", "linf", "l2"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.summary() == second.summary()


def _assert_same_but_for_threads(together: AttackedSet, alone: AttackedSet) -> None:
    """The same set, where a worker has the one thread that these tests have; else but for a sign here and there"""
    if os.cpu_count() in (1, 2, 3):
        _assert_same(together, alone)
    else:
        assert (np.abs(together.images - alone.images) > 1e-6).mean() < 0.01


def test_set_contains_the_images_of_the_attack(digits_network: Digits) -> None:
    network, images, labels = digits_network
    made = _generate(digits_network, FGM(epsilon=0.1))
    expected = FGM(epsilon=0.1)(network, images, labels)
    assert made.images.dtype == np.float32
    np.testing.assert_allclose(made.images, expected.numpy(), atol=1e-6)
    with torch.no_grad():
        natural = (network(images).argmax(1) == labels).numpy()
        attacked = (network(expected).argmax(1) == labels).numpy()
    np.testing.assert_array_equal(made.natural_correct, natural)
    np.testing.assert_array_equal(made.attacked_correct, attacked)
    np.testing.assert_array_equal(made.success, natural & ~attacked)
    assert made.success_rate == pytest.approx((natural & ~attacked).sum() / natural.sum())
    assert made.accuracy == attacked.mean()
    np.testing.assert_allclose(made.linf, np.abs(made.images - images.numpy()).max((1, 2, 3)), atol=1e-7)
    np.testing.assert_allclose(
        made.l2, np.linalg.norm((made.images - images.numpy()).reshape(64, -1), axis=1), rtol=1e-5
    )


def test_summary_is_the_set_in_numbers(digits_network: Digits) -> None:
    made = _generate(digits_network, FGM(epsilon=0.1))
    summary = made.summary()
    assert summary["n"] == 64
    assert summary["attack"] == "fgm"
    assert summary["parameters"] == FGM(epsilon=0.1).parameters()
    assert summary["natural_accuracy"] == made.natural_correct.mean()
    assert summary["accuracy_under_attack"] == made.accuracy
    assert summary["success_rate"] == made.success_rate
    assert summary["unchanged"] == (made.linf == 0).mean()
    assert summary["linf"]["max"] == pytest.approx(0.1, abs=1e-6)
    assert summary["l2"] == {"mean": made.l2.mean(), "median": np.median(made.l2), "max": made.l2.max()}


def test_success_is_undefined_where_nothing_was_right(digits_network: Digits) -> None:
    with torch.no_grad():
        wrong = (digits_network.network(digits_network.images).argmax(1) + 1) % 10
    made = _generate(digits_network._replace(labels=wrong), FGM())
    assert np.isnan(made.success_rate)
    assert made.summary()["success_rate"] is None
    assert not made.success.any()


def test_second_call_reads_the_cache(digits_network: Digits, tmp_path: Path) -> None:
    first = _generate(digits_network, Counting(), tmp_path)
    assert Counting.batches == 3
    assert len(_shards(tmp_path)) == 3
    _assert_same(_generate(digits_network, Counting(), tmp_path), first)
    assert Counting.batches == 3


@pytest.mark.parametrize("shards_done", [0, 1, 2])
def test_run_resumes_after_an_interruption(digits_network: Digits, tmp_path: Path, shards_done: int) -> None:
    uncut = _generate(digits_network, PGD(steps=3))
    Counting.stop_after = shards_done
    with pytest.raises(KeyboardInterrupt):
        _generate(digits_network, Counting(), tmp_path)
    assert len(_shards(tmp_path)) == shards_done
    assert not list(tmp_path.rglob(".*"))
    Counting.stop_after = None
    resumed = _generate(digits_network, Counting(), tmp_path)
    assert Counting.batches == 3
    _assert_same(resumed, _generate(digits_network, Counting()))
    # The seed of a shard is its own: a set with random starts, of which a shard is missing, comes out the same too.
    again = _generate(digits_network, PGD(steps=3), tmp_path / "pgd")
    _assert_same(again, uncut)
    _shards(tmp_path / "pgd")[shards_done].unlink()
    _assert_same(_generate(digits_network, PGD(steps=3), tmp_path / "pgd"), uncut)


def test_damaged_shards_are_attacked_again(
    digits_network: Digits, tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    sound = _generate(digits_network, FGM(epsilon=0.1), tmp_path)
    shard = _shards(tmp_path)[1]
    content = shard.read_bytes()
    positions = [0, 8, 9, 40, len(content) - 1, *rng.integers(0, len(content), 10)]
    damaged = [content[:p] + bytes([content[p] ^ (1 << int(rng.integers(8)))]) + content[p + 1 :] for p in positions]
    for broken in (*damaged, content[: len(content) // 2], content[:-1], b"", content + b"x"):
        shard.write_bytes(broken)
        _assert_same(_generate(digits_network, FGM(epsilon=0.1), tmp_path), sound)
        shard.write_bytes(broken)
    caplog.clear()
    shard.write_bytes(content[:-1])
    with caplog.at_level(logging.WARNING):
        _generate(digits_network, FGM(epsilon=0.1), tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert shard.name in caplog.text
    assert shard.read_bytes() == content


def test_exchanged_shards_are_attacked_again(digits_network: Digits, tmp_path: Path) -> None:
    sound = _generate(digits_network, FGM(epsilon=0.1), tmp_path)
    first, second, _ = _shards(tmp_path)
    second.write_bytes(first.read_bytes())
    _assert_same(_generate(digits_network, FGM(epsilon=0.1), tmp_path), sound)


def test_key_depends_on_all_inputs(digits_network: Digits, tmp_path: Path) -> None:
    network, images, labels = digits_network

    def sets() -> int:
        return len(list(tmp_path.iterdir()))

    _generate(digits_network, FGM(), tmp_path)
    _generate(digits_network, FGM(), tmp_path)
    assert sets() == 1
    for count, attack in enumerate((FGM(epsilon=0.04), FGM(seed=1), FGM(batch_size=7), PGD(steps=1)), start=2):
        _generate(digits_network, attack, tmp_path)
        assert sets() == count
    _generate(digits_network, FGM(), tmp_path, shard_size=SHARD + 1)
    assert sets() == 6
    other = images.clone()
    other[0, 0, 0, 0] = 0.123
    _generate(digits_network._replace(images=other), FGM(), tmp_path)
    assert sets() == 7
    _generate(digits_network._replace(labels=labels.roll(1)), FGM(), tmp_path)
    assert sets() == 8
    with torch.no_grad():
        next(iter(network.parameters())).view(-1)[0] += 1e-3
    _generate(digits_network, FGM(), tmp_path)
    assert sets() == 9
    network.mean.add_(1e-3)  # type: ignore[union-attr, operator]
    _generate(digits_network, FGM(), tmp_path)
    assert sets() == 10


def _network_of_a_file(folder: Path, forward: str) -> nn.Module:
    """A user's network with that `forward`, from a file of the same name each time"""
    folder.mkdir()
    file = folder / "network.py"
    file.write_text(
        "from torch import nn\n\n\nclass Scaled(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))\n\n"
        f"    def forward(self, images):\n        return {forward}\n"
    )
    return load_network(f"{file}:Scaled", image_shape=(3, 16, 16)).network


def test_an_edited_forward_changes_the_key(digits_network: Digits, tmp_path: Path) -> None:
    before = _network_of_a_file(tmp_path / "before", "2 * self.layers(images)")
    edited = _network_of_a_file(tmp_path / "edited", "-2 * self.layers(images)")
    same = _network_of_a_file(tmp_path / "same", "2 * self.layers(images)")
    for network in (edited, same):
        network.load_state_dict(before.state_dict())
        # Only the part inside differs: the outermost class is Plumbline's own in all of them.
        assert (type(network), repr(network)) == (type(before), repr(before))
    assert network_digest(same) == network_digest(before)
    assert network_digest(edited) != network_digest(before)
    first = _generate(digits_network._replace(network=before), FGM(), tmp_path / "cache")
    second = _generate(digits_network._replace(network=edited), FGM(), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert (first.images != second.images).any()


def test_attributes_of_a_users_modules_change_the_digest_and_the_training_mode_does_not(tmp_path: Path) -> None:
    built = {
        "plain": "{}", "one": "{'scale': 1}", "two": "{'scale': 2}", "real": "{'scale': 2.5}", "name": "{'mode': 'a'}",
        "sizes": "{'sizes': (1, (2, 'a'))}",
        # No part of the digest: private, of no constant `repr`, or a cache that `forward` fills.
        "private": "{'_calls': 1}", "hooked": "{'hook': object()}", "cache": "{'cache': {}}",
    }  # fmt: skip
    file = tmp_path / "network.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\nclass Scaled(nn.Module):\n"
        "    def __init__(self, **options):\n        super().__init__()\n"
        "        torch.manual_seed(0)\n        self.layer = nn.Linear(768, 10)\n        vars(self).update(options)\n\n"
        "    def forward(self, images):\n        return self.layer(images.flatten(1))\n"
        + "".join(f"\n\ndef {name}():\n    return Scaled(**{options})\n" for name, options in built.items())
    )
    networks = {name: load_network(f"{file}:{name}", image_shape=(3, 16, 16)).network for name in built}
    digests = {name: network_digest(network) for name, network in networks.items()}
    assert len(set(digests.values())) == 6
    assert digests["private"] == digests["hooked"] == digests["cache"] == digests["plain"]
    for name, network in networks.items():
        assert network_digest(network.train()) == network_digest(network.eval()) == digests[name]
    again = load_network(f"{file}:sizes", image_shape=(3, 16, 16)).network
    assert network_digest(again) == digests["sizes"]


def test_workers_change_nothing(digits_network: Digits, tmp_path: Path) -> None:
    attack = APGD(steps=3, restarts=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as a worker gets on two cores: sums in another order round otherwise
    try:
        alone = _generate(digits_network, attack)
    finally:
        torch.set_num_threads(threads)
    together = _generate(digits_network, attack, tmp_path, workers=2)
    _assert_same_but_for_threads(together, alone)
    _assert_same(_generate(digits_network, attack, tmp_path), together)


def test_a_network_from_a_file_that_workers_cannot_import(digits_network: Digits, tmp_path: Path) -> None:
    file = tmp_path / "my_network_of_no_package.py"
    file.write_text(
        "from torch import nn\n\n\nSCALE = -2.0\n\n\nclass Scaled(nn.Module):\n"
        "    def __init__(self, network):\n        super().__init__()\n        self.network = network\n\n"
        "    def forward(self, images):\n        return SCALE * self.network(images)\n"
    )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
        scaled = digits_network._replace(network=module.Scaled(digits_network.network).eval())
        made = _generate(scaled, FGM(epsilon=0.1), workers=2)
        alone = _generate(scaled, FGM(epsilon=0.1))
    finally:
        del sys.modules[file.stem]
    assert (made.linf > 0).any()
    _assert_same_but_for_threads(made, alone)
    # The sign of SCALE reverses the attack, so a worker without it would give other images.
    assert np.abs(made.images - _generate(digits_network, FGM(epsilon=0.1)).images).mean() > 0.01


def test_network_that_cannot_be_pickled_is_an_error(digits_network: Digits) -> None:
    digits_network.network.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(RunnerError, match="workers=1"):
        _generate(digits_network, FGM(), workers=2)


def test_error_in_a_worker_is_raised_unchanged(digits_network: Digits) -> None:
    with pytest.raises(AttackError, match="linf"):
        _generate(digits_network, TooFar(), workers=2)


class TooFar(FGM):
    """An attack that leaves its budget."""

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        return 1 - images


def test_arrays_and_read_only_memory_are_accepted(digits_network: Digits, tmp_path: Path) -> None:
    network, images, labels = digits_network
    expected = _generate(digits_network, FGM())
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    made = generate(network, mapped, labels.numpy(), FGM(), shard_size=SHARD, progress=False)
    _assert_same(made, expected)


def test_state_of_the_network_is_restored(digits_network: Digits) -> None:
    network = digits_network.network.train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    _generate(digits_network, FGM())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_wrong_input_is_found_before_the_first_attack(digits_network: Digits) -> None:
    network, images, labels = digits_network
    last_label_wrong = labels.clone()
    last_label_wrong[-1] = 10
    last_pixel_wrong = images.clone()
    last_pixel_wrong[-1, -1, -1, -1] = 1.5
    wrong: list[tuple[Any, Any]] = [
        (images, last_label_wrong),
        (last_pixel_wrong, labels),
        (images.to(torch.int16), labels),
        (images.to(torch.uint8)[:0], labels[:0]),
        (images.to(torch.uint8)[0], labels[:3]),
        (images.numpy().astype(object), labels),
        (images.tolist(), labels),
        (images, labels[:-1]),
        (images[:0], labels[:0]),
    ]
    for bad_images, bad_labels in wrong:
        with pytest.raises(InputError, match="expected"):
            generate(network, bad_images, bad_labels, Counting(), shard_size=SHARD, progress=False)
    for options in ({"shard_size": 0}, {"workers": 0}):
        with pytest.raises(InputError, match="expected"):
            _generate(digits_network, Counting(), **options)
    assert Counting.batches == 0


def test_a_cache_that_cannot_be_written_is_found_before_the_first_attack(
    digits_network: Digits, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(InputError, match=r"cannot write to .*another folder"):
        _generate(digits_network, Counting(), tmp_path / "file")
    assert Counting.batches == 0


def test_full_disk_is_an_error_and_leaves_no_partial_shard(
    digits_network: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync
    written = []

    def full_after_two(handle: int) -> None:
        written.append(handle)
        if len(written) > 2:  # the manifest and the first shard still fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_after_two)
    with pytest.raises(InputError, match=r"No space left on device.*free space"):
        _generate(digits_network, Counting(), tmp_path)
    assert len(_shards(tmp_path)) == 1
    assert not list(tmp_path.rglob(".partial-*"))
    monkeypatch.undo()
    _assert_same(_generate(digits_network, Counting(), tmp_path), _generate(digits_network, Counting()))


def test_progress_counts_images(digits_network: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _generate(digits_network, FGM(), tmp_path, progress=True)
    shown = capsys.readouterr()
    assert "fgm" in shown.err
    assert "64/64" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("limit", [0, 2**30], ids=["in a file", "in memory"])
def test_8_bit_images_are_attacked_shard_by_shard(
    digits_network: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(stored, "IN_MEMORY", limit)
    pixels = (digits_network.images * 255).round().to(torch.uint8)
    attack = Counting(epsilon=0.1)
    exact = digits_network._replace(images=pixels.float().div(255))
    whole = _generate(exact, attack, tmp_path)
    batches = Counting.batches
    read = _generate(digits_network._replace(images=pixels), attack, tmp_path)
    assert Counting.batches == batches  # the key is the same
    _assert_same(whole, read)
    assert isinstance(read.images, stored.StoredImages) == (limit == 0)
