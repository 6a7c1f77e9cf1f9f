"""Training recipes."""

from dataclasses import dataclass
from typing import Literal, get_args

from models.errors import InputError
from models.options import check_choice, check_count, check_number

__all__ = ["INITIALIZATIONS", "OPTIMIZERS", "SCHEDULES", "Initialization", "Optimizer", "Recipe", "Schedule"]

Initialization = Literal["default", "kaiming", "orthogonal", "normal"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "step", "cosine", "constant"]
INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
_PRECISIONS = ("auto", "float32", "bfloat16")
_MAX_EPOCHS = 100_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; an incomplete last batch is omitted, so that batch statistics stay comparable.
        learning_rate: the schedule's peak.
        schedule: "one_cycle" (up for a fifth of the steps, then cosine to zero), "step" (times `decay` at each of
            `milestones`), "cosine" (from the peak to zero) or "constant".
        momentum: of SGD, or of AdamW's first moment.
        weight_decay: of every parameter: SGD's L2 penalty, or AdamW's shrinking.
        crop_padding: pixels of zero padding before a random crop back to size; 0 turns it off.
        flip: random horizontal flips.
        cutout: side in pixels of a square at a random place that becomes zero in every image (DeVries & Taylor 2017);
            0 turns it off.
        sizes: shorter sides in pixels to which images are resized, one for each of as many equal shares of the epochs
            (progressive resizing); empty for the images' own size.
        gradient_clipping: largest L2 norm of the gradient; None disables it.
        precision: "bfloat16" runs the forward pass in mixed precision (for GPUs, and CPUs with AVX512-BF16 or AMX);
            "auto" means bfloat16 on a GPU that supports it, else float32.
        seed: of the order of the images, the augmentation, and the initial weights.
        optimizer: "sgd" or "adamw", whose second moment decays by 0.999.
        nesterov: SGD's momentum with Nesterov's correction.
        milestones: epochs of the schedule "step", increasing; those after the last epoch have no effect. By default
            50 %, 75 % and 83 % of the epochs (the thesis, appendix H.1).
        decay: of the schedule "step".
        initialization, gain: scheme for new weights at the start of a run, see `models.training.initialization`;
            "default" keeps the network's weights.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: Schedule = "one_cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flip: bool = True
    gradient_clipping: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    optimizer: Optimizer = "sgd"
    nesterov: bool = True
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    initialization: Initialization = "default"
    gain: float = 1.0
    cutout: int = 0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high) in {
            "epochs": (1, _MAX_EPOCHS), "batch_size": (2, 1_000_000), "crop_padding": (0, 64), "cutout": (0, 4096),
            "seed": (0, 2**31 - 1), "weight_decay": (0, 1), "momentum": (0, 1), "decay": (0, 1),
        }.items():  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"expected {name} of at least {low} and at most {high}, got {getattr(self, name)}")
        check_number("learning_rate", self.learning_rate, above=0)
        if self.gradient_clipping is not None:
            check_number("gradient_clipping", self.gradient_clipping, above=0)
        check_choice("precision", self.precision, _PRECISIONS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("initialization", self.initialization, INITIALIZATIONS)
        check_number("gain", self.gain, above=0)
        for epoch in self.milestones:
            check_count("milestones", epoch, most=_MAX_EPOCHS)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(f"expected increasing milestones, got {', '.join(map(str, self.milestones))}")
        for size in self.sizes:
            check_count("sizes", size, least=4, most=4096)
        if len(self.sizes) > self.epochs:
            raise InputError(f"expected at most {self.epochs} sizes, one an epoch, got {len(self.sizes)}")
        if self.optimizer == "adamw" and not self.momentum < 1:
            raise InputError(f"expected momentum below 1 for adamw, got {self.momentum}")
        if self.schedule != "step" and (self.milestones or self.decay != 0.1):
            raise InputError(f"expected milestones and decay with the schedule 'step' only, got {self.schedule!r}")
        if self.initialization == "default" and self.gain != 1:
            raise InputError(f"expected a gain with an initialization other than 'default' only, got {self.gain}")
