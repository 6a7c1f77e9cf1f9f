"""Base class of attacks: `(network, images, labels) → images` of the same shape and dtype, inside a threat model.

A new attack is one file with a class that derives from `Attack`, stores its keyword-only options under their own names
and implements `run` for one batch. `__call__` is final: it checks the inputs, splits them into batches, isolates the
network and the random generators, and checks the result.

This module also exports the names that most attacks import.
"""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from attacks.common.checks import check_epsilon, check_images, check_labels, class_count
from attacks.common.isolation import evaluation_mode, seeded
from attacks.common.noise import ImageNoise
from attacks.common.norms import Norm, perturbation_norms, project, tolerance
from attacks.common.targets import Target, aim, check_target, target_classes
from models.batching import InParts, fitting_size, gradient_bytes, run_batches
from models.devices import device_of
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
    """Base class: misclassified images near the given ones.

    Args:
        norm: norm of the perturbation, "linf" or "l2".
        epsilon: largest perturbation in this norm, pixels in [0, 1]; None: the attack minimises the perturbation.
        batch_size: maximum number of images attacked at once; fewer where memory requires it. It changes nothing but
            rounding, unless the docstring of an attack says otherwise; such an attack
            always gets batches of this size.
        seed: of everything random in the attack. The same seed, images and batch size give the same result on the same
            machine.

    A subclass stores every keyword of its constructor in an attribute of the same name, which `parameters` and `repr`
    read.
    """

    # Whether perturbations are small in some Lp norm, so that noise of the same size is a fair comparison.
    lp_bounded: bool = True
    algorithm: ClassVar[int] = 1  # increase it when results change, so that cached sets are attacked again
    # Options added later, with the values that change nothing, so that earlier cached sets stay valid.
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
        """Attacked images ``(B, C, H, W)`` float32 in [0, 1], on the device of the given images.

        The given images are not modified. Batches are moved to the network's device. The state of the network (mode,
        gradients, hooks) and the global random state are restored. An attack may fail on an image, so a result is not
        necessarily misclassified.

        Args:
            network: takes images in [0, 1], returns logits.
            images: ``(B, C, H, W)`` float32 in [0, 1].
            labels: ``(B,)`` int64, the true classes.

        Raises:
            InputError: images or labels of another shape, type or range.
            AttackError: the attack failed, or its result is outside its threat model.
        """
        check_images(images)
        device = device_of(network) or images.device
        # Attacks need gradients in every mode of the caller; copies made here are not inference tensors.
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(network):
            attacked = torch.empty_like(images)
            check_labels(labels, images, class_count(network, images[:1].to(device, copy=True)))
            image_bytes = gradient_bytes(network, images[:1].detach().to(device, copy=True))
            size = fitting_size(image_bytes, device, len(images), self.batch_size)
            # An attack can query more points than images, such as the probes of HopSkipJump.
            bounded = InParts(network, fitting_size(image_bytes, device, self.batch_size, self.batch_size))

            def attack(part: slice) -> Tensor:
                natural = images[part].detach().to(device, copy=True)
                noise = ImageNoise(self.seed, part.start)
                with seeded(self.seed, device):
                    attacked_part = self.run(bounded, natural.clone(), labels[part].to(device, copy=True), noise)
                self._check_result(natural, attacked_part)
                return attacked_part.detach().to(images.device)

            size = size if self.any_batch else self.batch_size
            for part, attacked_part in run_batches(attack, len(images), size, halve=self.any_batch):
                attacked[part] = attacked_part
        return attacked

    @abstractmethod
    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """Attacked images of one batch, already clipped to [0, 1] and to the budget.

        Args:
            network: in eval mode, with weights that require no gradient.
            images: ``(B, C, H, W)`` float32 in [0, 1], on the network's device; may be overwritten.
            labels: ``(B,)`` int64, on the same device.
            noise: random numbers. The global generators are seeded, too, for libraries that use them.
        """

    @final
    def parameters(self) -> dict[str, Any]:
        """All constructor arguments as JSON values; `type(attack)(**attack.parameters())` is an equal attack."""
        values: dict[str, Any] = {}
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                values |= getattr(self, name)
            elif name != "self":
                values[name] = getattr(self, name)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def any_batch(self) -> bool:
        """Whether the images of a batch do not influence each other, so that memory can decide the size of batches."""
        return getattr(self, "engine", None) != "art"

    def libraries(self) -> dict[str, str]:
        """Versions, by package, of the libraries whose code decides the result; empty for our own code."""
        return {}

    @property
    def name(self) -> str:
        """Name of the attack, which is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @final
    def with_seed(self, seed: int) -> Self:
        """A copy of the attack with another seed."""
        other = copy.copy(self)
        other.seed = check_count("seed", seed, least=0, most=2**63 - 1)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"

    def _check_result(self, natural: Tensor, attacked: Tensor) -> None:
        if attacked.shape != natural.shape or attacked.dtype != natural.dtype:
            raise AttackError(
                f"{self!r} returned images {tuple(attacked.shape)} {attacked.dtype} instead of "
                f"{tuple(natural.shape)} {natural.dtype}"
            )
        if not torch.isfinite(attacked).all():
            raise AttackError(f"{self!r} returned pixels that are not finite; check the network's gradients")
        low, high = attacked.min().item(), attacked.max().item()
        if low < 0 or high > 1:
            raise AttackError(f"{self!r} returned pixels in [{low:.7g}, {high:.7g}], expected pixels in [0, 1]")
        if self.epsilon is not None:
            linf, l2 = perturbation_norms(natural, attacked)
            largest = (linf if self.norm == "linf" else l2).max().item()
            if largest > self.epsilon + tolerance(self.norm, natural[0].numel()):
                raise AttackError(
                    f"{self!r} moved an image by {largest:.7g}, above its {self.norm} budget of {self.epsilon:.7g}"
                )
