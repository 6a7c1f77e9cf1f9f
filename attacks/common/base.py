"""The contract of an attack: `(network, images, labels) → images` of the same shape and dtype, inside its threat model.

A new attack is one file: a class that derives from `Attack`, stores its keyword-only options under their own names, and
writes `run` for one batch. `__call__` is final and does for every attack what each would otherwise have to do: it
checks what comes in, splits it into batches, isolates the network and the random generators, checks what comes out.
"""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from attacks.common.checks import check_epsilon, check_images, check_labels, class_count
from attacks.common.isolation import device_of, evaluation_mode, seeded
from attacks.common.noise import ImageNoise
from attacks.common.norms import Norm, perturbation_norms, project, tolerance
from attacks.common.targets import Target, aim, check_target, target_classes
from models.errors import AttackError, InputError
from models.options import check_choice, check_count, check_number

__all__ = [
    "Attack",
    "ImageNoise",
    "Norm",
    "Target",
    "aim",
    "check_choice",
    "check_count",
    "check_number",
    "check_target",
    "project",
    "target_classes",
]


class Attack(ABC):
    """Finds images near the given ones that the network gets wrong.

    Args:
        norm: what the perturbation is measured in, "linf" or "l2".
        epsilon: largest perturbation in that norm, pixels in [0, 1]; None: no budget, the attack looks for a small one.
        batch_size: images attacked at once. It bounds memory; whether it changes results is for each attack to say.
        seed: of everything random in the attack. Same seed, images and batch size: same result on the same machine.

    Every keyword of a subclass's constructor is kept in an attribute of the same name: `parameters` and `repr` read it.
    """

    # Its perturbations are meant to be small in some Lp norm, so that noise of that size compares.
    lp_bounded: ClassVar[bool] = True
    algorithm: ClassVar[int] = 1  # counted up when results change, so that attacked sets on disk are made again
    # Options that came later, at the values that change nothing: sets on disk from before are found again.
    added_options: ClassVar[Mapping[str, Any]] = {"target": None}

    def __init__(self, *, norm: Norm, epsilon: float | None, batch_size: int = 128, seed: int = 0) -> None:
        if norm not in ("linf", "l2"):
            raise InputError(f"expected norm 'linf' or 'l2', got {norm!r}")
        if epsilon is not None:
            check_epsilon(epsilon, norm)
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.batch_size = check_count("batch_size", batch_size)
        self.seed = check_count("seed", seed, least=0, most=2**63 - 1)

    @final
    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images ``(B, C, H, W)`` float32 in [0, 1], on the device the images came on.

        The given images are not written to. Batches are moved to the network's device. The network is left as it was
        found (mode, gradients, hooks), and so is the global random state. A result is not necessarily misclassified: an
        attack may fail on an image.

        Args:
            images: ``(B, C, H, W)`` float32 in [0, 1].
            labels: ``(B,)`` int64, the true classes.

        Raises:
            InputError: images or labels of another shape, type or range.
            AttackError: the attack failed, or what it returned is outside its threat model.
        """
        check_images(images)
        device = device_of(network) or images.device
        # Attacks need gradients whatever mode the caller is in; copies made in here are no inference tensors.
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(network):
            attacked = torch.empty_like(images)
            check_labels(labels, images, class_count(network, images[:1].to(device, copy=True)))
            for first in range(0, len(images), self.batch_size):
                part = slice(first, first + self.batch_size)
                natural = images[part].detach().to(device, copy=True)
                with seeded(self.seed, device):
                    found = self.run(
                        network, natural.clone(), labels[part].to(device, copy=True), ImageNoise(self.seed, first)
                    )
                self._check_found(natural, found)
                attacked[part] = found.detach().to(images.device)
        return attacked

    @abstractmethod
    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """Attacked images of one batch, already clipped to [0, 1] and to the budget.

        The network is in eval mode, its weights require no gradient, and images may be overwritten. Draw randomness
        from `noise`; the global generators are seeded too, for libraries that use them.

        Args:
            images: ``(B, C, H, W)`` float32 in [0, 1], on the network's device.
            labels: ``(B,)`` int64, on the same device.
        """

    @final
    def parameters(self) -> dict[str, Any]:
        """All constructor arguments as JSON values; `type(attack)(**attack.parameters())` is the same attack."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def libraries(self) -> dict[str, str]:
        """Versions, by package, of the libraries whose code decides the result; empty where it is ours alone."""
        return {}

    @property
    def name(self) -> str:
        """The attack's name: that of the file it is in."""
        return type(self).__module__.rpartition(".")[2]

    @final
    def with_seed(self, seed: int) -> Self:
        """The same attack under another seed."""
        other = copy.copy(self)
        other.seed = check_count("seed", seed, least=0, most=2**63 - 1)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"

    def _check_found(self, natural: Tensor, found: Tensor) -> None:
        if found.shape != natural.shape or found.dtype != natural.dtype:
            raise AttackError(
                f"{self!r} was to return images {tuple(natural.shape)} {natural.dtype}, "
                f"returned {tuple(found.shape)} {found.dtype}"
            )
        if not torch.isfinite(found).all():
            raise AttackError(f"{self!r} returned pixels that are not finite; look at the network's gradients")
        low, high = found.min().item(), found.max().item()
        if low < 0 or high > 1:
            raise AttackError(f"{self!r} was to return pixels in [0, 1], returned pixels in [{low:.7g}, {high:.7g}]")
        if self.epsilon is not None:
            linf, l2 = perturbation_norms(natural, found)
            largest = (linf if self.norm == "linf" else l2).max().item()
            if largest > self.epsilon + tolerance(self.norm, natural[0].numel()):
                raise AttackError(
                    f"{self!r} was to stay within {self.norm} {self.epsilon:.7g}, moved an image by {largest:.7g}"
                )
