"""One training loop and one recipe.

`train` reads top to bottom: for each epoch it draws an order from (seed, epoch), crops and flips whole batches, steps,
and writes a checkpoint from which an interrupted run goes on with the very numbers it would have had.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from models.datasets.base import ImageDataset
from models.errors import CheckpointError, InputError
from models.files import sha256_of, write_atomically, write_json
from models.objectives.base import Objective
from models.progress import progress_bar

__all__ = ["Recipe", "accuracy", "train"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; an incomplete last batch is left out, so that batch statistics stay comparable.
        learning_rate: the schedule's peak.
        schedule: "one_cycle" (up for a fifth of the steps, then cosine to zero) or "step" (a tenth at 50 %, 75 % and
            83 % of the epochs, as in the thesis, appendix H.1).
        momentum: of SGD with Nesterov's correction.
        weight_decay: L2 penalty on every parameter.
        crop_padding: pixels of zero padding before a random crop back to size; 0 turns it off.
        flip: random horizontal flips.
        gradient_clipping: largest L2 norm of the gradient; None leaves it alone.
        precision: "bfloat16" runs the forward pass in mixed precision (for GPUs, and CPUs with AVX512-BF16 or AMX);
            "auto" means bfloat16 on a GPU that supports it, else float32.
        seed: of the order, the augmentation, and, by `plumbline train`, the initial weights.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: Literal["one_cycle", "step"] = "one_cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flip: bool = True
    gradient_clipping: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in {
            "epochs": (1, 100_000), "batch_size": (2, 1_000_000), "crop_padding": (0, 64), "seed": (0, 2**31 - 1),
            "weight_decay": (0, 1), "momentum": (0, 1),
        }.items():  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"expected {name} of at least {low} and at most {high}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"expected a positive learning rate, got {self.learning_rate}")
        if self.gradient_clipping is not None and not self.gradient_clipping > 0:
            raise InputError(f"expected a positive gradient norm to clip at, got {self.gradient_clipping}")


def train(
    network: nn.Module,
    data: ImageDataset,
    objective: Objective,
    recipe: Recipe,
    folder: Path,
    *,
    test: ImageDataset | None = None,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """Train `network` (images in [0, 1] → logits) in place; one row per epoch: loss, accuracy, learning rate, seconds.

    After every epoch the state is written to `folder/training`; called again with the same arguments, it goes on there.
    The test images are only looked at, never chosen by.

    Raises:
        CheckpointError: `folder/training` holds the state of another recipe, data set or network.
        InputError: fewer training images than a batch.
    """
    if len(data) < recipe.batch_size:
        raise InputError(
            f"expected at least one batch of {recipe.batch_size} images, got {len(data)}; lower --batch-size"
        )
    network.to(device=device, memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
    steps = len(data) // recipe.batch_size
    optimizer = torch.optim.SGD(
        network.parameters(),
        recipe.learning_rate,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    dtype = _autocast_dtype(recipe, device)
    saved = _SavedState(folder / "training", _identity(network, data, recipe, objective))
    rows = saved.restore(network, optimizer, objective)

    for epoch in range(len(rows), recipe.epochs):
        started = time.perf_counter()
        # For dropout and stochastic depth, so that a resumed epoch draws what an uninterrupted one would have.
        torch.manual_seed((recipe.seed << 20) + epoch)
        network.train()
        total_loss = total_correct = 0.0
        batches = _augmented_batches(images, labels, recipe, epoch)
        bar = progress_bar(batches, what=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", total=steps)
        for step, (batch, targets) in enumerate(bar, start=epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(recipe, step, steps)
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
                value = objective.evaluate(network, batch, targets)
            optimizer.zero_grad(set_to_none=True)
            value.loss.backward()  # type: ignore[no-untyped-call]
            if recipe.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clipping)
            optimizer.step()
            objective.after_step(value)
            total_loss += float(value.loss.detach())
            total_correct += float((value.logits.detach().argmax(1) == targets).float().mean())
            bar.set_postfix_str(f"loss {float(value.loss.detach()):.3f}", refresh=False)
        row = {
            "epoch": epoch + 1,
            "loss": total_loss / steps,
            "train_accuracy": total_correct / steps,
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
    if recipe.schedule == "step":
        return 0.1 ** sum(progress >= milestone for milestone in (0.5, 0.75, 250 / 300))
    warm = 0.2
    if progress < warm:
        return 0.04 + 0.96 * progress / warm
    return float(0.5 * (1 + np.cos(np.pi * (progress - warm) / (1 - warm))))


def _autocast_dtype(recipe: Recipe, device: str) -> torch.dtype | None:
    on_gpu = torch.device(device).type == "cuda"
    if recipe.precision == "bfloat16" or (recipe.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return None


def _identity(network: nn.Module, data: ImageDataset, recipe: Recipe, objective: Objective) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    parameters = {name: list(p.shape) for name, p in network.named_parameters()}
    return {
        "recipe": asdict(recipe),
        "data": data.fingerprint(),
        "objective": [type(objective).__name__, {k: v for k, v in vars(objective).items() if _is_option(v)}],
        "parameters": parameters,
    }


def _is_option(value: object) -> bool:
    return isinstance(value, bool | int | float | str | None)


class _SavedState:
    """The state after the last whole epoch: tensors in one safetensors file whose SHA-256 the JSON beside it names."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))

    def write(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective, rows: list[dict[str, float]]
    ) -> None:
        """Replace the saved state; the tensors' file is new each epoch, so that a crash in between loses nothing."""
        tensors = {f"network.{name}": t.detach().cpu().contiguous().clone() for name, t in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{index}"] = state["momentum_buffer"].detach().cpu().contiguous()
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
            same, sha256 = header["identity"] == self.identity, header["sha256"]
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
        network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
        state = optimizer.state_dict()
        state["state"] = {
            int(name.removeprefix("momentum.")): {"momentum_buffer": t}
            for name, t in tensors.items()
            if name.startswith("momentum.")
        }
        optimizer.load_state_dict(state)
        objective.load_state(header["objective"])
        return rows
