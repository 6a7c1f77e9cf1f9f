"""Adapter to the Adversarial Robustness Toolbox (ART), which is imported when an attack runs.

`Any` stands for ART's untyped classes in this file only.
"""

import importlib
import importlib.metadata
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.common.checks import class_count
from attacks.common.finite import watched_logits
from attacks.common.norms import Norm
from models.errors import AttackError

__all__ = ["art_attack_class", "art_version", "gradient_options", "quiet_logger", "run_art_attack"]


def run_art_attack(
    class_name: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: Mapping[str, Any],
    starts: Tensor | None = None,
) -> Tensor:
    """Images ``(B, C, H, W)`` float32 in [0, 1] from ART's attack of this class on one batch.

    ART receives the network unchanged: pixels in [0, 1], no preprocessing, logits. The result is clipped to [0, 1],
    since rounding in ART's change of variables can leave this range (Carlini and Wagner: up to 5e-7).

    Args:
        class_name: of `art.attacks.evasion`, such as "DeepFool".
        network: in eval mode; weights that require no gradient save ART their backward pass.
        images: ``(B, C, H, W)`` float32 in [0, 1], on the network's device.
        labels: ``(B,)`` int64.
        options: arguments of the attack's constructor, without the estimator.
        starts: adversarial images ``(B, C, H, W)`` where the attack starts; None: ART draws new ones in every run.

    Raises:
        AttackError: ART cannot be imported, or its attack failed; logits or a gradient of the network are not finite.
    """
    device = images.device
    with quiet_logger("art"), _current_device(device):
        attack_class = art_attack_class(class_name)
        try:
            attack = attack_class(_classifier(network, images), **options)
            begin = {} if starts is None else {"x_adv_init": starts.cpu().numpy()}
            found = attack.generate(x=images.cpu().numpy(), y=labels.cpu().numpy(), **begin)
        except AttackError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, FloatingPointError) as exc:
            raise AttackError(f"ART's {class_name} failed: {exc}") from exc
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).to(device).clamp_(0.0, 1.0)


def art_attack_class(name: str) -> Any:
    """The class of `art.attacks.evasion` with this name.

    Raises:
        AttackError: ART cannot be imported.
    """
    return getattr(_import("art.attacks.evasion"), name)


def gradient_options(norm: Norm, epsilon: float, step: float, count: int, *, targeted: bool) -> dict[str, Any]:
    """Arguments that ART's gradient attacks with a budget share.

    Args:
        norm, epsilon: the budget.
        step: size of one step; ART's default is 0.1 for every budget.
        count: number of images, attacked as one batch.
        targeted: whether the labels are targets.
    """
    order = math.inf if norm == "linf" else 2
    return {"norm": order, "eps": epsilon, "eps_step": step, "batch_size": count, "targeted": targeted}


def art_version() -> dict[str, str]:
    """Version of ART by package name, for cache keys and reports."""
    package = "adversarial-robustness-toolbox"
    return {package: importlib.metadata.version(package)}


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Silence a library's logger below errors inside the context."""
    logger = logging.getLogger(name)
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)


def _classifier(network: nn.Module, images: Tensor) -> Any:
    """The network as an ART estimator."""
    return _import("art.estimators.classification").PyTorchClassifier(
        # Wrapped, since ART calls the parts of a bare nn.Sequential and skips the container's hooks.
        model=_Wrapped(network),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=class_count(network, images[:1]),
        clip_values=(0.0, 1.0),
        preprocessing=None,
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )


class _Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        # Some of ART's attacks interpolate in float64; networks here take float32.
        return watched_logits(self.network, images.float())


@contextmanager
def _current_device(device: torch.device) -> Iterator[None]:
    """Make the device of the network the current CUDA device, on which ART runs."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as exc:  # ART writes a settings file when imported
        raise AttackError(
            f"this attack needs adversarial-robustness-toolbox, which cannot be imported: {exc}; "
            "install Plumbline's requirements"
        ) from exc
