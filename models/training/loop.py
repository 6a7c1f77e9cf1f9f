"""One training loop and one recipe.

`train` reads top to bottom: for each epoch it draws an order from (seed, epoch), crops and flips whole batches, steps,
and writes a checkpoint from which an interrupted run goes on with the very numbers it would have had.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from models.datasets.base import ImageDataset
from models.errors import CheckpointError, InputError
from models.files import sha256_of, write_atomically, write_json
from models.objectives.base import Objective
from models.options import check_choice, check_count, check_number
from models.progress import progress_bar
from models.training.initialization import INITIALIZATIONS, Initialization, initialize

__all__ = ["OPTIMIZERS", "SCHEDULES", "Recipe", "accuracy", "train"]

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["one_cycle", "step", "cosine", "constant"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
_PRECISIONS = ("auto", "float32", "bfloat16")
_LONGEST = 100_000
# Fields that recipes were given later: their defaults are what was done before, and runs that began then go on.
_ADDED = frozenset({"optimizer", "nesterov", "milestones", "decay", "initialization", "gain"})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; an incomplete last batch is left out, so that batch statistics stay comparable.
        learning_rate: the schedule's peak.
        schedule: "one_cycle" (up for a fifth of the steps, then cosine to zero), "step" (times `decay` at each of
            `milestones`), "cosine" (from the peak to zero) or "constant".
        momentum: of SGD, or AdamW's first moment's.
        weight_decay: of every parameter: SGD's L2 penalty, or AdamW's shrinking.
        crop_padding: pixels of zero padding before a random crop back to size; 0 turns it off.
        flip: random horizontal flips.
        gradient_clipping: largest L2 norm of the gradient; None leaves it alone.
        precision: "bfloat16" runs the forward pass in mixed precision (for GPUs, and CPUs with AVX512-BF16 or AMX);
            "auto" means bfloat16 on a GPU that supports it, else float32.
        seed: of the order, the augmentation, and the initial weights that `initialization` or, before, `plumbline
            train` draws.
        optimizer: "sgd" or "adamw" (whose second moment's decay is 0.999).
        nesterov: SGD's momentum with Nesterov's correction.
        milestones: of the schedule "step", in whole epochs, growing; those beyond the last epoch do nothing. Empty: at
            50 %, 75 % and 83 % of the epochs (the thesis, appendix H.1).
        decay: of the schedule "step".
        initialization, gain: weights drawn anew when a run begins, as in `models.training.initialization`; "default"
        trains the
            weights that the network has.
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

    def __post_init__(self) -> None:
        for name, (low, high) in {
            "epochs": (1, _LONGEST), "batch_size": (2, 1_000_000), "crop_padding": (0, 64), "seed": (0, 2**31 - 1),
            "weight_decay": (0, 1), "momentum": (0, 1), "decay": (0, 1),
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
            check_count("milestones", epoch, most=_LONGEST)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(f"expected milestones that grow, got {', '.join(map(str, self.milestones))}")
        if self.optimizer == "adamw" and not self.momentum < 1:
            raise InputError(f"expected momentum below 1 for adamw, got {self.momentum}")
        if self.schedule != "step" and (self.milestones or self.decay != 0.1):
            raise InputError(f"expected milestones and decay with the schedule 'step' only, got {self.schedule!r}")
        if self.initialization == "default" and self.gain != 1:
            raise InputError(f"expected a gain with an initialization other than 'default' only, got {self.gain}")


def train(
    network: nn.Module,
    data: ImageDataset,
    objective: Objective,
    recipe: Recipe,
    folder: Path,
    *,
    test: ImageDataset | None = None,
    device: str = "cpu",
    described: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Train `network` (images in [0, 1] → logits) in place; one row per epoch: loss, accuracy, learning rate, seconds.

    After every epoch the state is written to `folder/training`; called again with the same arguments, it goes on there.
    The test images are only looked at, never chosen by.

    Args:
        described: JSON values by which the network is known besides its parameters' names and shapes, such as its
            specification: a run of a network described otherwise does not go on.

    Raises:
        CheckpointError: `folder/training` holds the state of another recipe, data set or network.
        InputError: fewer training images than a batch.
    """
    if len(data) < recipe.batch_size:
        raise InputError(
            f"expected at least one batch of {recipe.batch_size} images, got {len(data)}; lower --batch-size"
        )
    identity = _identity(network, data, recipe, objective) | ({} if described is None else {"network": described})
    initialize(network, recipe.initialization, recipe.gain, seed=recipe.seed)
    network.to(device=device, memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
    objective.prepare(network, data.image_shape, recipe.epochs)
    parameters = [*network.parameters(), *objective.parameters()]
    steps = len(data) // recipe.batch_size
    optimizer = _optimizer(parameters, recipe)
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    dtype = _autocast_dtype(recipe, device)
    saved = _SavedState(folder / "training", identity)
    rows = saved.restore(network, optimizer, objective)

    for epoch in range(len(rows), recipe.epochs):
        started = time.perf_counter()
        # For dropout and stochastic depth, so that a resumed epoch draws what an uninterrupted one would have.
        torch.manual_seed((recipe.seed << 20) + epoch)
        network.train()
        objective.begin_epoch(epoch)
        totals: defaultdict[str, float] = defaultdict(float)
        batches = _augmented_batches(images, labels, recipe, epoch)
        bar = progress_bar(batches, what=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", total=steps)
        for step, (batch, targets) in enumerate(bar, start=epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(recipe, step, steps)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
                value = objective.accumulate(network, batch, targets)
            if recipe.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.gradient_clipping)
            optimizer.step()
            objective.after_step(value)
            totals["loss"] += float(value.loss.detach())
            totals["train_accuracy"] += float((value.logits.detach().argmax(1) == targets).float().mean())
            for name, statistics_spec in value.measures.items():
                totals[name] += float(statistics_spec)
            bar.set_postfix_str(f"loss {float(value.loss.detach()):.3f}", refresh=False)
        row = {
            "epoch": epoch + 1,
            **{name: total / steps for name, total in totals.items()},
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
        }
        if not np.isfinite(row["loss"]):
            raise InputError(
                f"the loss became {row['loss']} in epoch {epoch + 1}; lower --learning-rate or clip gradients"
            )
        if test is not None:
            row["test_accuracy"] = accuracy(network, test, device=device)
        rows.append(row)
        saved.write(network, optimizer, objective, rows)
        tqdm.write("  ".join(f"{name} {v:.4g}" for name, v in row.items()))
    network.requires_grad_(False)
    network.eval()
    return rows


def accuracy(network: nn.Module, data: ImageDataset, *, batch_size: int = 500, device: str = "cpu") -> float:
    """Share of images whose largest logit is their label's; leaves the network's mode as it was."""
    training = network.training
    network.eval()
    correct = 0
    try:
        with torch.inference_mode():
            for start in range(0, len(data), batch_size):
                chosen = slice(start, start + batch_size)
                batch = data.tensor(chosen).to(device, memory_format=torch.channels_last)
                correct += int((network(batch).argmax(1).cpu().numpy() == data.labels[chosen]).sum())
    finally:
        network.train(training)
    return correct / len(data)


def _augmented_batches(images: Tensor, labels: Tensor, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches float32 in [0, 1], in an order and with crops that depend on (seed, epoch) alone."""
    generator = torch.Generator().manual_seed((recipe.seed << 20) + epoch)
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(images) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size].to(images.device)
        batch = _random_crop(images[chosen], recipe.crop_padding, generator)
        if recipe.flip:
            flipped = torch.rand(len(batch), generator=generator).to(batch.device) < 0.5
            batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
        yield batch.float().div_(255).contiguous(memory_format=torch.channels_last), labels[chosen]


def _random_crop(batch: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Each image of ``(B, C, H, W)`` shifted by up to `padding` pixels, zeros moving in."""
    if padding == 0:
        return batch
    count, _, height, width = batch.shape
    padded = nn.functional.pad(batch, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(batch.device)
    rows = top + torch.arange(height, device=batch.device)
    columns = left + torch.arange(width, device=batch.device)
    image = torch.arange(count, device=batch.device)[:, None, None]
    # Advanced indices around the channel slice put it last: (B, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    """Learning rate at `step`, as a share of the peak."""
    progress = step / (steps * recipe.epochs)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step" and recipe.milestones:
        return recipe.decay ** sum(step >= epoch * steps for epoch in recipe.milestones)
    if recipe.schedule == "step":
        return recipe.decay ** sum(progress >= milestone for milestone in (0.5, 0.75, 250 / 300))
    warm = 0.2 if recipe.schedule == "one_cycle" else 0.0
    if progress < warm:
        return 0.04 + 0.96 * progress / warm
    return float(0.5 * (1 + np.cos(np.pi * (progress - warm) / (1 - warm))))


def _autocast_dtype(recipe: Recipe, device: str) -> torch.dtype | None:
    on_gpu = torch.device(device).type == "cuda"
    if recipe.precision == "bfloat16" or (recipe.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return None


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, (recipe.momentum, 0.999), weight_decay=decay)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov)


def _identity(network: nn.Module, data: ImageDataset, recipe: Recipe, objective: Objective) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    usual = asdict(Recipe())
    words = {name: v for name, v in asdict(recipe).items() if name not in _ADDED or v != usual[name]}
    parameters = {name: list(p.shape) for name, p in network.named_parameters()}
    return {
        "recipe": words,
        "data": data.fingerprint(),
        "objective": [type(objective).__name__, objective.options()],
        "parameters": parameters,
    }


class _SavedState:
    """The state after the last whole epoch: tensors in one safetensors file whose SHA-256 the JSON beside it names."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))

    def write(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective, rows: list[dict[str, float]]
    ) -> None:
        """Replace the saved state; the tensors' file is new each epoch, so that a crash in between loses nothing."""
        named = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        named |= {f"objective.{name}": tensor for name, tensor in objective.tensors().items()}
        named |= {f"optimizer.{name}": tensor for name, tensor in _optimizer_tensors(optimizer).items()}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
        path = self.folder / f"epoch-{len(rows):04d}.safetensors"
        write_atomically(path, save(tensors))
        header = {"identity": self.identity, "rows": rows, "objective": objective.state(), "sha256": sha256_of(path)}
        write_json(self.folder / "state.json", header)
        for old in self.folder.glob("epoch-*.safetensors"):
            if old != path:
                old.unlink()

    def restore(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective
    ) -> list[dict[str, float]]:
        """Take the saved state back; the rows of the epochs done, none when there is no state."""
        header_path = self.folder / "state.json"
        if not header_path.is_file():
            return []
        try:
            header = json.loads(header_path.read_text(encoding="utf-8"))
            rows: list[dict[str, float]] = header["rows"]
            path = self.folder / f"epoch-{len(rows):04d}.safetensors"
            # States of before networks were described say nothing of it, and go on.
            same = {"network": self.identity.get("network"), **header["identity"]} == {"network": None, **self.identity}
            sha256 = header["sha256"]
        except (ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"{header_path}: expected the state of a run, could not read it; remove it") from exc
        if not same:
            raise CheckpointError(
                f"{self.folder} holds a run with another recipe, data set or network; choose another --out or remove it"
            )
        if not path.is_file() or sha256_of(path) != sha256:
            raise CheckpointError(
                f"{path}: expected the state with SHA-256 {sha256}; the file is missing or was changed"
            )
        tensors = load_file(path)
        network.load_state_dict(_under("network.", tensors))
        objective.load_tensors(_under("objective.", tensors))
        # Runs of before there was a choice of optimisers named SGD's momentum in another way.
        momentum = {f"{number}.momentum_buffer": tensor for number, tensor in _under("momentum.", tensors).items()}
        _load_optimizer_tensors(optimizer, _under("optimizer.", tensors) | momentum)
        objective.load_state(header["objective"])
        return rows


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser has gathered, as ``PARAMETER.NAME`` with the parameter's number."""
    state: dict[int, dict[str, Tensor | None]] = optimizer.state_dict()["state"]
    return {f"{n}.{name}": t for n, values in state.items() for name, t in values.items() if t is not None}


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    gathered: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        number, _, kind = name.partition(".")
        gathered[int(number)][kind] = tensor
    optimizer.load_state_dict({**state, "state": dict(gathered)})
