"""Made-up features of natural and of odd images, for the suites on detectors and components."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.features import FeatureRequest, Features, ForwardPass, Head, needs_of
from models.residuals import Branch, Discovery

__all__ = ["CLASSES", "COLUMNS", "features_of"]

CLASSES, COLUMNS = 3, 8


class Requester(Protocol):
    """A detector or a component."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]: ...


def features_of(requester: Requester, rng: np.random.Generator, odd: np.ndarray) -> Features:
    """Features of images of which some are odd: every value of these differs from natural ones.

    The requests are computed on a forward pass of which images, embeddings and logits are made up.
    """
    count = len(odd)
    predicted = rng.integers(CLASSES, size=count)
    statistics = rng.uniform(0.9, 1.1, size=(count, COLUMNS)) * (1 + 0.1 * predicted[:, None])
    statistics[odd] = rng.uniform(8, 12, size=(odd.sum(), COLUMNS))
    waves = np.sin(np.linspace(0, 6, 16))[:, None] * np.cos(np.linspace(0, 5, 16))
    images = 0.5 + 0.3 * waves + rng.normal(scale=0.02, size=(count, 3, 16, 16))
    images[odd] = rng.uniform(size=(odd.sum(), 3, 16, 16))
    embeddings = []
    for layer, (width, side) in enumerate(((4, 4), (6, 2), (6, 2))):
        means = 3 * np.random.default_rng(layer).normal(size=(CLASSES, width))
        values = means[predicted] + rng.normal(scale=0.3, size=(count, width))
        values[odd] = rng.normal(scale=20, size=(odd.sum(), width))
        embeddings.append(values[:, :, None, None] + rng.normal(scale=0.05, size=(count, width, side, side)))
    # Confident logits for natural, undecided ones for odd images; a linear layer adds them up from four parts each.
    logits = rng.normal(scale=0.3, size=(count, CLASSES))
    logits[np.arange(count)[~odd], predicted[~odd]] += 8
    inputs = as_tensor(np.repeat(logits / 4, 4, axis=1))
    linear = nn.Linear(4 * CLASSES, CLASSES, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(CLASSES).repeat_interleave(4, dim=1))
        output = linear(inputs)
        context = ForwardPass(
            as_tensor(images.clip(0, 1)), output, as_tensor(statistics), linear, discovery_of(embeddings),
            tuple(as_tensor(embedding) for embedding in embeddings), Head(linear, inputs, output),
            pooled_embeddings=as_tensor(np.concatenate([each.mean(axis=(2, 3)) for each in embeddings], axis=1)),
            pooled_residues=as_tensor(np.concatenate([each[:, :, 0].mean(axis=2) for each in embeddings], axis=1)),
        )  # fmt: skip
        # A view of a natural image differs little.
        other = replace(
            context,
            logits=output + as_tensor(rng.normal(scale=np.where(odd, 4, 0.1)[:, None], size=output.shape)),
            pooled_embeddings=1.1 * context.pooled_embeddings,
            statistics=context.statistics
            + as_tensor(rng.normal(scale=np.where(odd, 2, 0.01)[:, None], size=statistics.shape)),
        )
        needs = needs_of(requester.feature_requests())
        # A companion agrees on natural images and favours another class for odd ones.
        against = 8 * as_tensor(odd[:, None] * np.eye(CLASSES)[output.numpy().argmax(axis=1)])
        companion = dict.fromkeys(needs.companion, other.logits - against)
        context = replace(context, views=dict.fromkeys(needs.views, other), companion=companion)
        requested = {
            feature_request.name: feature_request(context).numpy() for feature_request in requester.feature_requests()
        }
    return Features(output.numpy(), statistics.astype(np.float32), requested)


def discovery_of(embeddings: list[np.ndarray]) -> Discovery:
    branches = [Branch(str(block), values.shape[1:], "addition") for block, values in enumerate(embeddings)]
    return Discovery(tuple(branches), ())


def as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
