"""The training loop.

For each epoch, `train` draws an order of the images from (seed, epoch), crops and flips whole batches, makes the steps,
and writes a state from which an interrupted run continues with identical numbers.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.batching import fitting_batch, run_batches
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.objectives.base import Objective
from models.progress import progress_bar
from models.training.batches import augmented_batches
from models.training.depth import AdaptiveDepth
from models.training.initialization import initialize
from models.training.recipe import Recipe
from models.training.schedules import learning_rate
from models.training.state import SavedState, identity_of

__all__ = ["accuracy", "train"]


def train(
    network: nn.Module,
    data: ImageDataset,
    objective: Objective,
    recipe: Recipe,
    folder: Path,
    *,
    test: ImageDataset | None = None,
    test_every: int = 1,
    device: str = "cpu",
    described: Mapping[str, Any] | None = None,
    depth: AdaptiveDepth | None = None,
) -> list[dict[str, float]]:
    """Train `network` (images in [0, 1] → logits) in place; one row per epoch: loss, accuracy, learning rate, seconds.

    After every epoch the state is written to `folder/training`; a call with the same arguments continues from there.
    The test images are used for reporting only, never for a choice.

    Args:
        network: the network.
        data: the training images.
        objective: gives the loss.
        recipe: how to train.
        folder: the run's folder.
        test: images for the test accuracy; None for none.
        test_every: epochs from one test to the next; the last epoch is always tested.
        device: where to train.
        described: JSON values that describe the network besides the names and shapes of its parameters, such as its
            specification. A run with another description does not continue.
        depth: changes the blocks of the network during training; None for a fixed depth. Rows then have `blocks`.

    Raises:
        CheckpointError: `folder/training` contains the state of another recipe, data set or network.
        InputError: fewer training images than a batch; or `depth`, and the objective has parameters of its own.
    """
    if len(data) < recipe.batch_size:
        raise InputError(
            f"expected at least one batch of {recipe.batch_size} images, got {len(data)}; lower --batch-size"
        )
    saved = SavedState(folder / "training", identity_of(network, data, recipe, objective, described, depth))
    initialize(network, recipe.initialization, recipe.gain, seed=recipe.seed)
    if depth is not None:
        saved.restore_depth(depth)
    network.to(device=device, memory_format=torch.channels_last).requires_grad_(True)  # type: ignore[call-overload]
    objective.prepare(network, data.image_shape, recipe.epochs)
    if depth is not None and objective.parameters():
        raise InputError("the objective divides the network into fixed modules; omit it, or omit --adapt-depth")
    parameters = [*network.parameters(), *objective.parameters()]
    steps = len(data) // recipe.batch_size
    optimizer = _optimizer(parameters, recipe)
    images, labels = torch.from_numpy(np.asarray(data.images)).to(device), torch.from_numpy(data.labels).to(device)
    dtype = _autocast_dtype(recipe, device)
    rows = saved.restore(network, optimizer, objective)

    for epoch in range(len(rows), recipe.epochs):
        started = time.perf_counter()
        # A resumed epoch then has the same dropout and stochastic depth as an uninterrupted one.
        torch.manual_seed((recipe.seed << 20) + epoch)
        network.train()
        objective.begin_epoch(epoch)
        totals: defaultdict[str, float] = defaultdict(float)
        batches = augmented_batches(images, labels, recipe, epoch)
        bar = progress_bar(batches, what=f"epoch {epoch + 1}/{recipe.epochs}", unit="batch", total=steps)
        for step, (batch, targets) in enumerate(bar, start=epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
                value = objective.accumulate(network, batch, targets)
            if recipe.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.gradient_clipping)
            optimizer.step()
            objective.after_step(value)
            totals["loss"] += float(value.loss.detach())
            totals["train_accuracy"] += float((value.logits.detach().argmax(1) == targets).float().mean())
            for name, number in value.measures.items():
                totals[name] += float(number)
            bar.set_postfix_str(f"loss {float(value.loss.detach()):.3f}", refresh=False)
        row = {
            "epoch": epoch + 1,
            **{name: total / steps for name, total in totals.items()},
            "learning_rate": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - started,
            **({} if depth is None else {"blocks": depth.blocks()}),
        }
        if not np.isfinite(row["loss"]):
            raise InputError(
                f"the loss became {row['loss']} in epoch {epoch + 1}; lower --learning-rate or clip gradients"
            )
        if test is not None and ((epoch + 1) % test_every == 0 or epoch + 1 == recipe.epochs):
            row["test_accuracy"] = accuracy(network, test, device=device)
        rows.append(row)
        if depth is not None and epoch + 1 < recipe.epochs and depth.after_epoch(epoch + 1):
            objective.prepare(network, data.image_shape, recipe.epochs)
            parameters = list(network.parameters())
            optimizer = _continued(optimizer, parameters, recipe)
        saved.write(network, optimizer, objective, rows, depth)
        tqdm.write("  ".join(f"{name} {v:.4g}" for name, v in row.items()))
    network.requires_grad_(False)
    network.eval()
    return rows


def accuracy(network: nn.Module, data: ImageDataset, *, batch_size: int | None = None, device: str = "cpu") -> float:
    """Share of images whose largest logit is that of their label; the network's mode is unchanged.

    Args:
        network: images in [0, 1] → logits.
        data: images and labels.
        batch_size: images per forward pass; None: at most 500, as memory allows.
        device: where the network is.
    """

    def images(rows: slice) -> Tensor:
        return data.tensor(rows).to(device, memory_format=torch.channels_last)

    def count_correct(rows: slice) -> int:
        return int((network(images(rows)).argmax(1).cpu().numpy() == data.labels[rows]).sum())

    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            size = batch_size or fitting_batch(network, images(slice(1)), len(data), 500)
            return sum(correct for _, correct in run_batches(count_correct, len(data), size)) / len(data)
    finally:
        network.train(training)


def _autocast_dtype(recipe: Recipe, device: str) -> torch.dtype | None:
    on_gpu = torch.device(device).type == "cuda"
    if recipe.precision == "bfloat16" or (recipe.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return None


def _continued(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """An optimizer of these parameters; those of the given one keep their momentum, new ones have none."""
    continued = _optimizer(parameters, recipe)
    continued.state.update({each: optimizer.state[each] for each in parameters if each in optimizer.state})
    return continued


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, (recipe.momentum, 0.999), weight_decay=decay)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov)
