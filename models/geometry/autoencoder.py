"""A small convolutional autoencoder, and residual networks whose blocks work in its latent space.

The output of a block in such a network is a point of the latent space, so the decoder can convert it to an image (the
thesis, appendix F.2). The thesis does not describe its autoencoder; this one has two strided convolutions each way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.networks.resnet import PreActivationBlock
from models.options import check_count, check_number
from models.progress import progress_bar
from models.training.initialization import initialize

__all__ = ["Autoencoder", "LatentResNet", "pretrain", "reconstruction_error"]


class Autoencoder(nn.Module):
    """Reconstructions in [0, 1] of images ``(B, 3, H, W)`` in [0, 1], through a latent ``(B, channels, ⌈H/4⌉, ⌈W/4⌉)``.

    Without batch normalisation, the encoder is the same function in training and in evaluation mode.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        check_count("channels", channels)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, channels, 3, stride=2, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(channels, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def decode(self, latent: Tensor, height: int, width: int) -> Tensor:
        """Images ``(B, 3, height, width)``; the decoder's own size is the next multiple of 4."""
        images: Tensor = self.decoder(latent)
        return images[..., :height, :width]

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encoder(images), *images.shape[2:])


class LatentResNet(nn.Module):
    """Logits ``(B, K)`` of images: a frozen encoder, M blocks x + r(x) in its latent space, a classifier.

    No gradient reaches the encoder, so training leaves it bit for bit unchanged.

    Args:
        encoder: images → ``(B, channels, h, w)``; shared, not copied.
        channels: of the latent space.
        num_classes: K.
        blocks: M.
        seed: of the weights of blocks and classifier. The blocks' are orthogonal with gain 0.01, the classifier's
            orthogonal with gain 1 (appendix F.1 has 0.01 for all).
    """

    def __init__(self, encoder: nn.Module, channels: int, *, num_classes: int, blocks: int = 9, seed: int = 0) -> None:
        super().__init__()
        check_count("blocks", blocks)
        self.encoder = encoder
        self.blocks = nn.Sequential(*[PreActivationBlock(channels) for _ in range(blocks)])
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(4 * channels, num_classes),
        )  # fmt: skip
        initialize(self.blocks, "orthogonal", 0.01, seed=seed)
        initialize(self.head, "orthogonal", seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            latent = self.encoder(images)
        logits: Tensor = self.head(self.blocks(latent))
        return logits


def pretrain(
    autoencoder: Autoencoder,
    data: ImageDataset,
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train an autoencoder in place with Adam on the mean squared error; the error of each epoch.

    Args:
        autoencoder: the network.
        data: the images.
        epochs: passes over the images.
        batch_size: images per step; the last batch of an epoch may be smaller.
        learning_rate: of Adam.
        seed: of the order of the images.
        progress: show a progress bar.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_number("learning_rate", learning_rate, above=0)
    optimizer = torch.optim.Adam(autoencoder.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    autoencoder.train()
    errors = []
    for _ in progress_bar(range(epochs), what="autoencoder", unit="epoch", show=progress):
        total = 0.0
        order = torch.randperm(len(data), generator=generator).numpy()
        for start in range(0, len(data), batch_size):
            images = data.tensor(order[start : start + batch_size])
            error = F.mse_loss(autoencoder(images), images)
            optimizer.zero_grad(set_to_none=True)
            error.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(error.detach()) * len(images)
        errors.append(total / len(data))
    autoencoder.eval().requires_grad_(False)
    return errors


def reconstruction_error(autoencoder: Autoencoder, data: ImageDataset, batch_size: int = 500) -> float:
    """Mean squared error per value in [0, 1], over all images."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            images = data.tensor(slice(start, start + batch_size))
            total += float(F.mse_loss(autoencoder(images), images)) * len(images)
    return total / len(data)
