"""Gradients in bfloat16: as strong as float32, decided in float32, and float32 where bfloat16 is no gain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import build_attack
from attacks.bim import BIM
from attacks.pgd import PGD
from models.errors import InputError
from tests.attacks.digits import Digits

OPTIONS: dict[str, Any] = {"epsilon": 0.05, "batch_size": 32}


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch computes bfloat16 on every CPU; these tests need no fast one."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


def _fooled(digits: Digits, attacked: Tensor) -> Tensor:
    with torch.no_grad():
        return digits.network(attacked).argmax(1) != digits.labels


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("fgm", {}), ("bim", {"steps": 8}), ("pgd", {"steps": 8, "restarts": 2}), ("apgd", {"steps": 10, "restarts": 2})],
)
def test_bfloat16_fools_as_many(name: str, options: dict[str, Any], norm: str, digits_network: Digits) -> None:
    options = options | OPTIONS | {"norm": norm, "epsilon": 0.05 if norm == "linf" else 1.0}
    one, other = (
        build_attack(name, options | {"precision": precision})(*digits_network) for precision in ("float32", "bfloat16")
    )
    assert not torch.equal(one, other)
    assert abs(int(_fooled(digits_network, one).sum()) - int(_fooled(digits_network, other).sum())) <= 4


class _Band(nn.Module):
    """Class 1 for images whose mean is within 0.01 of 0.525, class 0 elsewhere. Images keep float32 under autocast."""

    def forward(self, images: Tensor) -> Tensor:
        lead = 0.01 - (images.mean((1, 2, 3)) - 0.525).abs()
        return 100 * torch.stack([-lead, lead], dim=1)


def test_an_earlier_point_replaces_a_last_point_that_fails_in_float32() -> None:
    # The steps visit 0.52, 0.54, 0.52 and 0.54, of which only 0.52 is in the band.
    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    options: dict[str, Any] = {"epsilon": 0.05, "step": 0.02, "steps": 4}
    last = BIM(**options)(_Band(), images, labels)
    chosen = BIM(precision="bfloat16", **options)(_Band(), images, labels)
    torch.testing.assert_close(last, torch.full_like(images, 0.54))
    torch.testing.assert_close(chosen, torch.full_like(images, 0.52))


class _Resisting(nn.Module):
    """The network; under autocast it fails in its forward pass, in its backward pass, or returns NaN."""

    def __init__(self, network: nn.Module, fault: str) -> None:
        super().__init__()
        self.network = network
        self.fault = fault

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        if torch.is_autocast_enabled("cpu"):
            if self.fault == "forward":
                raise RuntimeError("expected scalar type Float but found BFloat16")
            if self.fault == "backward":
                logits.register_hook(_fail)  # type: ignore[no-untyped-call]
            else:
                return logits * torch.nan
        return logits


def _fail(gradient: Tensor) -> Tensor:
    raise RuntimeError("expected scalar type Float but found BFloat16")


@contextmanager
def _one_warning(match: str) -> Iterator[None]:
    with pytest.warns(UserWarning, match=match) as seen:
        yield
    assert len(seen) == 1


@pytest.mark.parametrize("fault", ["forward", "backward", "nan"])
def test_a_network_that_resists_is_attacked_in_float32(fault: str, digits_network: Digits) -> None:
    network, images, labels = digits_network
    images, labels = images[:8], labels[:8]
    network = _Resisting(network, fault)
    expected = PGD(epsilon=0.05, steps=3)(network, images, labels)
    with _one_warning(r"^the network does not work in bfloat16 \(.+\); the attack computes in float32$"):
        attacked = PGD(epsilon=0.05, steps=3, precision="bfloat16")(network, images, labels)
    assert torch.equal(attacked, expected)


def test_without_fast_bfloat16_the_attack_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, digits_network: Digits
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    expected = PGD(epsilon=0.05, steps=3)(*digits_network)
    with _one_warning("no fast bfloat16"):
        attacked = PGD(epsilon=0.05, steps=3, precision="bfloat16")(*digits_network)
    assert torch.equal(attacked, expected)


def test_precisions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="expected precision as one of 'float32', 'bfloat16', got 'float16'"):
        build_attack("fgm", {"precision": "float16"})
    with pytest.raises(InputError, match="engine 'art' supports precision 'float32' only; use engine 'torch'"):
        build_attack("bim", {"precision": "bfloat16", "engine": "art"})
