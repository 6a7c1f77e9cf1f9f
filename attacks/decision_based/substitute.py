"""A small network fitted to the outputs of another one, for transfer attacks (Papernot et al., 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.queries import logits_of

__all__ = ["fit_substitute"]

_BATCH = 64
_LEARNING_RATE = 2e-3
_PROBE = 0.1  # λ of their equation (2): distance of a new image from its original, in pixel units


def fit_substitute(network: nn.Module, images: Tensor, *, epochs: int, rounds: int, seed: int) -> nn.Module:
    """A substitute in eval mode, fitted to the network's probabilities on the images and on probes of them.

    Jacobian-based augmentation (their algorithm 1): each round adds one new image per image so far, moved by the sign
    of the gradient of the substitute's largest logit, and queries the network on the new images. The total is
    images · 2^rounds queries. Departures from the paper: the network returns probabilities and not classes; a new image
    moves against the gradient as often as along it; and it starts from a blend of its image with another one, since few
    images do not cover the space between them.

    Args:
        network: takes images in [0, 1], returns logits.
        images: ``(B, C, H, W)``.
        epochs: passes over the images in each round.
        rounds: of augmentation.
        seed: of weights, order and augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    answers = logits_of(network, images).softmax(1)
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(seed)
        substitute = _small_network(images.shape[1], answers.shape[1]).to(images.device)
    optimizer = torch.optim.Adam(substitute.parameters(), lr=_LEARNING_RATE)
    for number in range(rounds + 1):
        if number:
            probes = _new_images(substitute.eval(), images, generator)
            images = torch.cat([images, probes])
            answers = torch.cat([answers, logits_of(network, probes).softmax(1)])
        substitute.train()
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator).to(images.device)
            for batch in torch.split(order, _BATCH):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(substitute(images[batch]), answers[batch]))
                optimizer.step()
    return substitute.eval().requires_grad_(False)


def _new_images(substitute: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    others = images[torch.randperm(len(images), generator=generator).to(images.device)]
    share, way = torch.rand((2, len(images), 1, 1, 1), generator=generator).to(images.device)
    at = (others + share * (images - others)).requires_grad_(True)
    answers = substitute(at)
    (gradient,) = torch.autograd.grad(answers.amax(1).sum(), at)
    moved: Tensor = at.detach() + _PROBE * (2 * way - 1) * gradient.sign()
    return moved.clamp(0, 1)


def _small_network(channels: int, classes: int) -> nn.Module:
    """Two convolutions, a mean over a 4 x 4 grid and two linear layers.

    It has no batch normalisation, so that its output for an image does not depend on the other images.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )
