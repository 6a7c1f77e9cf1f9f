"""The modules of a split network with the classifiers and residual branches of their own losses."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.batching import fitting_batch, run_batches
from models.datasets.base import ImageDataset
from models.errors import NetworkError
from models.normalization import Normalized
from models.residuals import Discovery, discover, evaluation_mode, record_residues
from models.splitting.auxiliary import AuxiliaryClassifier
from models.splitting.early_exit import EarlyExitNetwork
from models.splitting.splitting import SplitNetwork, split_network

__all__ = ["LocalModule", "accuracies", "exit_after", "local_modules"]


@dataclass(frozen=True)
class LocalModule:
    """One module of a split network.

    Args:
        module: its layers, shared with the network.
        classifier: gives its logits; None for the last module, whose output is the logits.
        discovery: the residual branches that have a cost; None if there are none.
    """

    module: nn.Module
    classifier: nn.Module | None
    discovery: Discovery | None

    def run(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs, logits and transport cost of a batch, differentiable.

        The cost is the sum over the branches of the mean of |r|² over batch and dimensions; None without branches.
        """
        with ExitStack() as stack:
            if self.discovery is not None:
                recording = stack.enter_context(record_residues(self.module, self.discovery))
            outputs = self.module(inputs)
        logits = outputs if self.classifier is None else self.classifier(outputs)
        # ‖r‖²/d of each image and branch, reduced during the pass: the whole residues need not all stay in memory.
        cost = None if self.discovery is None else recording.statistics[:, ::2].mean(0).sum()
        return outputs, logits, cost


def local_modules(
    network: nn.Module,
    image_shape: tuple[int, int, int],
    count: int,
    by: Literal["depth", "weight"],
    *,
    with_cost: bool,
) -> tuple[SplitNetwork, tuple[LocalModule, ...]]:
    """The network split into modules, with a new auxiliary classifier after each module but the last.

    Args:
        network: the network, on its device.
        image_shape: (channels, height, width) of the images.
        count: the number of modules.
        by: see `split_network`.
        with_cost: whether to look for residual branches, of the kind that the whole network has.

    Raises:
        NetworkError: as `split_network`; or no module has residual branches.
    """
    split = split_network(network, image_shape, count, by)
    discoveries: list[Discovery | None] = [None] * count
    if with_cost:
        inputs = [image_shape, *(boundary.shape for boundary in split.boundaries)]
        kind = discover(network, image_shape).branches[0].kind
        discoveries = [_branches(module, shape, kind) for module, shape in zip(split.modules, inputs, strict=True)]
        if not any(discoveries):
            raise NetworkError("no module has a residual branch; use fewer modules, or omit tau and initial_weight")
    device = next(network.parameters()).device
    classifiers = [AuxiliaryClassifier(boundary, split.outputs).to(device) for boundary in split.boundaries]
    return split, tuple(map(LocalModule, split.modules, [*classifiers, None], discoveries))


def accuracies(modules: Sequence[LocalModule], data: ImageDataset, *, batch_size: int | None = None) -> list[float]:
    """Share of the images that each module classifies correctly, in evaluation mode.

    Args:
        modules: one after the other.
        data: images and labels.
        batch_size: images per forward pass; None: at most 500, as memory allows.
    """
    every = nn.ModuleList(nn.ModuleList([each.module, each.classifier or nn.Identity()]) for each in modules)
    device = next(every.parameters()).device

    def images(rows: slice) -> Tensor:
        return data.tensor(rows).to(device, memory_format=torch.channels_last)

    def all_logits(x: Tensor) -> list[Tensor]:
        logits = []
        for each in modules:
            x = each.module(x)
            logits.append(x if each.classifier is None else each.classifier(x))
        return logits

    def count_correct(rows: slice) -> NDArray[np.int64]:
        labels = torch.from_numpy(data.labels[rows]).to(device)
        return np.array([int((logits.argmax(1) == labels).sum()) for logits in all_logits(images(rows))])

    with evaluation_mode(every), torch.inference_mode():
        size = batch_size or fitting_batch(all_logits, images(slice(1)), len(data), 500)
        correct = np.sum([counted for _, counted in run_batches(count_correct, len(data), size)], axis=0)
    return [float(share) for share in correct / len(data)]


def exit_after(
    network: Normalized,
    split: SplitNetwork,
    modules: Sequence[LocalModule],
    number: int,
    image_shape: tuple[int, int, int],
) -> tuple[Normalized, int | None]:
    """The network that ends with a module and its classifier, and the number of its boundary.

    After the last module, it is the whole network and None. It shares layers with the network.

    Args:
        network: the trained network.
        split: its split.
        modules: the modules of the split.
        number: of the module, from 1.
        image_shape: (channels, height, width) of the images.
    """
    if number == len(modules):
        return network, None
    boundary = split.boundaries[number - 1].number
    early = EarlyExitNetwork(
        network.network,
        network.inner_shape(image_shape),
        boundary=boundary,
        num_classes=split.outputs,
        classifier=modules[number - 1].classifier,
    )
    mean, std = network.mean.flatten().tolist(), network.std.flatten().tolist()
    result = Normalized(early, mean, std, grey=network.grey)
    return result.to(network.mean.device).train(network.training).requires_grad_(False), boundary


def _branches(module: nn.Module, shape: tuple[int, ...], kind: str) -> Discovery | None:
    """The residual branches in a module, of one kind."""
    try:
        discovery = discover(module, shape)  # type: ignore[arg-type]  # a boundary may have fewer axes than an image
    except NetworkError:
        return None
    branches = tuple(branch for branch in discovery.branches if branch.kind == kind)
    return Discovery(branches, discovery.skipped_branches) if branches else None
