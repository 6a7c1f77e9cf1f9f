"""AutoAttack through the adapter: its parts, unchanged images, no output."""

import sys
import types
from collections.abc import Sequence
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from attacks.autoattack import AutoAttack
from attacks.pgd import PGD
from models.errors import InputError
from tests.attacks.digits import Digits

pytestmark = pytest.mark.slow


def _custom(*parts: str, **options: Any) -> AutoAttack:
    return AutoAttack(version="custom", attacks_to_run=parts, **options)  # type: ignore[arg-type]


class FewClasses(nn.Module):
    """The digits' network with the logits of the first classes only."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, : self.classes]


def _few(digits: Digits, classes: int) -> Digits:
    kept = digits.labels < classes
    return Digits(FewClasses(digits.network, classes), digits.images[kept], digits.labels[kept])


def test_the_standard_version_fools_at_least_what_pgd_fools(digits_network: Digits) -> None:
    network, images, labels = digits_network
    # Large enough that APGD leaves little to the slow parts.
    standard = AutoAttack(epsilon=0.25)(network, images, labels)
    pgd = PGD(epsilon=0.25, steps=10)(network, images, labels)
    with torch.no_grad():
        assert (network(standard).argmax(1) == labels).sum() <= (network(pgd).argmax(1) == labels).sum()


def test_misclassified_images_and_failures_are_left_untouched(digits_network: Digits) -> None:
    network, images, labels = digits_network
    images, labels = images[:24], labels[:24].clone()
    labels[:5] = (labels[:5] + 1) % 10
    attacked = _custom("apgd-ce", epsilon=0.02)(network, images, labels)
    with torch.no_grad():
        natural_correct = network(images).argmax(1) == labels
        attacked_correct = network(attacked).argmax(1) == labels
    unchanged = (attacked == images).flatten(1).all(1)
    assert (~natural_correct).sum() >= 4
    assert torch.equal(unchanged, ~natural_correct | attacked_correct)


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_are_an_error_with_a_remedy(digits_network: Digits, classes: int) -> None:
    with pytest.raises(InputError, match=rf"apgd-t.*{classes} classes.*apgd-ce"):
        AutoAttack()(*_few(digits_network, classes))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_parts_that_can_run_with_few_classes_do(digits_network: Digits, classes: int) -> None:
    few = _few(digits_network, classes)
    parts = ("apgd-ce", "fab-t") if classes < 5 else ("apgd-t", "fab-t")
    with torch.no_grad():
        natural = (few.network(few.images).argmax(1) == few.labels).float().mean()
        attacked = few.network(_custom(*parts, epsilon=0.25)(*few)).argmax(1) == few.labels
    assert attacked.float().mean() < natural - 0.3


def test_l2(digits_network: Digits) -> None:
    network, images, labels = digits_network
    attacked = _custom("apgd-ce", epsilon=1.5, norm="l2")(network, images, labels)
    sizes = (attacked - images).flatten(1).norm(dim=1)
    assert 1.4 < sizes.max() <= 1.5 + 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"version": "strong"},
        {"version": "custom"},
        {"attacks_to_run": ["apgd-ce"]},
        {"version": "custom", "attacks_to_run": ["pgd"]},
        {"version": "custom", "attacks_to_run": []},
        {"version": "custom", "attacks_to_run": ""},
        {"version": "custom", "attacks_to_run": "apgd-ce,square"},
        {"version": "custom", "attacks_to_run": "apgd-ce+"},
        {"version": "custom", "attacks_to_run": 5},
        {"version": "custom", "attacks_to_run": b"fab"},
        {"version": "custom", "attacks_to_run": [["fab"]]},
        {"version": "custom", "attacks_to_run": {"fab": True}},
        {"attacks_to_run": 5},
        {"attacks_to_run": 0},
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        AutoAttack(**options)


def test_parts_can_be_one_text() -> None:
    both = AutoAttack(version="custom", attacks_to_run="apgd-ce+square")
    assert both.parameters() == _custom("apgd-ce", "square").parameters()
    assert both.parameters()["attacks_to_run"] == ["apgd-ce", "square"]
    assert AutoAttack(version="custom", attacks_to_run="fab").attacks_to_run == ("fab",)


def test_it_prints_nothing_and_leaves_the_tracer(
    digits_network: Digits, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def tracer(frame: types.FrameType, event: str, argument: object) -> None:
        calls.append(event)

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with caplog.at_level("DEBUG"):
            _custom("apgd-ce", epsilon=0.1)(
                digits_network.network, digits_network.images[:4], digits_network.labels[:4]
            )
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is tracer
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


class _AuthorsSignature(pyautoattack.AutoAttack):  # type: ignore[misc]
    """The same attack behind the arguments that the authors' own package takes."""

    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device = "cuda",
        log_path: str | None = None,
    ) -> None:
        super().__init__(
            model, attacks=list(attacks_to_run) or None, device=device, eps=eps, norm=norm, seed=seed, version=version
        )
        self.verbose = verbose

    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> Any:
        print("the authors' code prints")
        found, labels = super().run_standard_evaluation(x_orig, y_orig, batch_size=bs)
        return (found, labels) if return_labels else found


def test_the_authors_package_is_used_where_it_is_installed(
    digits_network: Digits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = _custom("apgd-ce", epsilon=0.1)
    expected = attack(*digits_network)
    assert list(attack.libraries()) == ["pyautoattack"]
    package = types.ModuleType("autoattack")
    package.__spec__ = pyautoattack.__spec__
    package.AutoAttack = _AuthorsSignature  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", package)
    assert list(attack.libraries()) == ["autoattack"]
    assert torch.equal(attack(*digits_network), expected)
    assert capsys.readouterr().out == ""
