"""The blocks of a network in an autoencoder's latent space, decoded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.datasets.base import ImageDataset
from models.geometry.autoencoder import Autoencoder, LatentResNet
from models.residuals import StatisticsSpec, discover, record_residues

__all__ = ["Decoded", "decode_blocks", "embeddings"]

_BATCH = 250


@dataclass(frozen=True)
class Decoded:
    """The decoded blocks of a network on a data set.

    Args:
        network: in evaluation mode.
        latent_shape: (C, h, w).
        figures: JSON values, a number per block in each list: "decoding_distance", mean squared difference per value
            between a block's decoding and the autoencoder's own reconstruction; "embedding_distance", the same between
            embeddings, as a share of the mean square of the encoder's output; "transport_cost", mean over images of the
            sum over blocks of the residue's mean square.
    """

    network: LatentResNet
    latent_shape: tuple[int, ...]
    figures: dict[str, Any]


def embeddings(network: LatentResNet, images: Tensor) -> tuple[Tensor, ...]:
    """x_0 to x_M of a batch, each ``(B, C, h, w)``: the encoder's output and each block's."""
    _, channels, height, width = images.shape
    discovery = discover(network, (channels, height, width))
    statistics_spec = StatisticsSpec(quantity="embeddings")
    with (
        torch.no_grad(),
        record_residues(network, discovery, statistics_spec=statistics_spec, keep=True, statistics=False) as recording,
    ):
        network(images)
        return network.encoder(images), *recording.embeddings


def decode_blocks(autoencoder: Autoencoder, network: LatentResNet, data: ImageDataset) -> Decoded:
    """Decode and measure every block's output on every image; the decoded images are not kept."""
    network.eval()
    count = len(network.blocks)
    decodings, distances, costs = np.zeros(count), np.zeros(count), np.zeros(count)
    scale = 0.0
    shape: tuple[int, ...] = ()
    height, width = data.image_shape[1:]
    for start in range(0, len(data), _BATCH):
        images = data.tensor(slice(start, start + _BATCH))
        points = embeddings(network, images)
        shape = tuple(points[0].shape[1:])
        with torch.no_grad():
            own = autoencoder.decode(points[0], height, width)
            for block, point in enumerate(points[1:]):
                decoded = autoencoder.decode(point, height, width)
                decodings[block] += _sum_of_means(decoded - own)
                distances[block] += _sum_of_means(point - points[0])
                costs[block] += _sum_of_means(point - points[block])
        scale += _sum_of_means(points[0])
    figures = {
        "decoding_distance": (decodings / len(data)).tolist(),
        "embedding_distance": (distances / scale).tolist(),
        "transport_cost": float(costs.sum() / len(data)),
    }
    return Decoded(network, shape, figures)


def _sum_of_means(difference: Tensor) -> float:
    return float(difference.double().flatten(1).square().mean(1).sum())
