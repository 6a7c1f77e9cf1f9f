"""Attacks as streams of 8-bit queries to one network, each recorded with its answer."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.noise import ImageNoise
from attacks.decision_based.boundary import boundary
from attacks.decision_based.hop_skip_jump import hop_skip_jump
from attacks.decision_based.starts import random_starts
from attacks.square import Square

__all__ = ["ATTACKS", "Answers", "Classify", "Stream", "attack_stream"]

Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Pixels uint8 ``(N, 3, H, W)`` → probabilities float64 ``(N, K)``, flags bool ``(N,)``."""

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_LINF, _L2 = 8 / 255, 0.5  # a misclassified query within one of these distances of the original is a success, at 32 px
_PROBE_WIDTH = 15.0  # of HopSkipJump; 8 bits undo narrower probes
_START_TRIES = 40


class _BudgetError(Exception):
    """The attack has sent all of its queries."""


@dataclass
class Stream:
    """The queries of one attack.

    Args:
        pixels: uint8 ``(N, 3, H, W)``.
        probabilities: float64 ``(N, K)``.
        flagged: bool ``(N,)``.
        success: index of the first successful query; None without one.
    """

    pixels: np.ndarray
    probabilities: np.ndarray
    flagged: np.ndarray
    success: int | None


@dataclass
class Answers:
    """Answers to queries in [0, 1], which are rounded to 8 bits and recorded.

    Args:
        classify: the network, or network and detector.
        budget: maximum number of queries.
        rng: of the transforms.
        upload: what happens to an image before the server decodes it, such as JPEG.
        transform: what the attacker does to every query, such as noise.
        starts: uint8 ``(M, 3, H, W)``, the nearest photos of other classes; the attack on network and detector
            starts from the first accepted one.
    """

    classify: Classify
    budget: int
    rng: np.random.Generator
    upload: Callable[[np.ndarray], np.ndarray] | None = None
    transform: Transform | None = None
    starts: np.ndarray | None = None
    sent: list[np.ndarray] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    flagged: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def __call__(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and flags of points ``(N, 3, H, W)``.

        Raises:
            _BudgetError: the budget is used up.
        """
        points = points[: self.budget - self.count]
        pixels = points.detach().clamp(0, 1).mul(255).round().byte().numpy()
        if self.transform is not None:
            pixels = self.transform(pixels, self.rng)
        if len(pixels):
            self.sent.append(pixels)
            if self.upload is not None:
                pixels = self.upload(pixels)
            probabilities, flagged = self.classify(pixels)
            self.pixels.append(pixels)
            self.probabilities.append(probabilities)
            self.flagged.append(flagged)
            self.count += len(pixels)
        if self.count >= self.budget:
            raise _BudgetError
        return probabilities, flagged

    def stream(self, original: np.ndarray, label: int, *, unflagged: bool) -> Stream:
        """All queries so far; distances of successes are measured before the upload.

        A success of an attack on network and detector must not be flagged.
        """
        pixels, probabilities = np.concatenate(self.pixels), np.concatenate(self.probabilities)
        flagged = np.concatenate(self.flagged)
        apart = np.abs(np.concatenate(self.sent).astype(np.float32) - original) / 255
        near = apart.reshape(len(apart), -1).max(1) <= _LINF + 1e-6
        near |= np.sqrt((apart**2).reshape(len(apart), -1).sum(1)) <= _L2 * np.sqrt(original.size / 3072)
        won = np.flatnonzero((probabilities.argmax(1) != label) & near & ~(flagged & unflagged))
        return Stream(pixels, probabilities, flagged, int(won[0]) if len(won) else None)


class _Network(nn.Module):
    """Logarithms of the answers' probabilities, as logits."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(np.log(np.maximum(self.answers(images)[0], 1e-30))).float()


def attack_stream(name: str, answers: Answers, original: np.ndarray, label: int, *, seed: int) -> Stream:
    """The queries of attack `name` on one image, until its success or the end of its budget.

    Args:
        name: one of `ATTACKS`.
        answers: without queries so far.
        original: uint8 ``(3, H, W)``.
        label: its class.
        seed: of the attack.
    """
    image = torch.from_numpy(original).float().div(255)[None]
    try:
        answers(image)
        ATTACKS[name](answers, image, label, seed)
    except _BudgetError:
        pass
    return answers.stream(original, label, unflagged=name == "system")


def _square(epsilon: float) -> Callable[[Answers, Tensor, int, int], None]:
    def run(answers: Answers, image: Tensor, label: int, seed: int) -> None:
        attack = Square(epsilon=epsilon, steps=answers.budget, seed=seed)
        attack.run(_Network(answers), image.clone(), torch.tensor([label]), ImageNoise(seed, 0))

    return run


def _simba(answers: Answers, image: Tensor, label: int, seed: int) -> None:
    """SimBA in the DCT basis (Guo et al., 2019): one low frequency of one channel after the other, kept if p falls."""
    rng = np.random.default_rng(seed)
    channels, height, width = image.shape[1:]
    step = 0.1 * float(np.sqrt(image.numel() / 3072))
    side = height // 2
    current = image.clone()
    lowest = answers(current)[0][0, label]
    for number in rng.permutation(channels * side * side).tolist():
        channel, down, across = number // (side * side), number // side % side, number % side
        wave = _cosine(height, down)[:, None] * _cosine(width, across)[None, :]
        for sign in (1, -1):
            tried = current.clone()
            tried[0, channel] += sign * step * wave
            tried.clamp_(0, 1)
            probabilities = answers(tried)[0][0]
            if probabilities[label] < lowest:
                current, lowest = tried, probabilities[label]
                if probabilities.argmax() != label:
                    return
                break


def _cosine(length: int, frequency: int) -> Tensor:
    places = torch.arange(length) + 0.5
    wave = torch.cos(torch.pi * frequency * places / length)
    return wave / wave.norm()


def _nes(answers: Answers, image: Tensor, label: int, seed: int) -> None:
    """NES (Ilyas et al., 2018): gradients of log p from 20 antithetic pairs, momentum, steps of 2/255 in L∞."""
    generator = torch.Generator().manual_seed(seed)
    current, momentum = image.clone(), torch.zeros_like(image)
    while True:
        probabilities = answers(current)[0][0]
        if probabilities.argmax() != label:
            return
        directions = torch.randn(20, *image.shape[1:], generator=generator)
        probes = torch.cat([current + 0.01 * directions, current - 0.01 * directions])
        logs = torch.from_numpy(np.log(np.maximum(answers(probes)[0][:, label], 1e-30))).float()
        gradient = ((logs[:20] - logs[20:])[:, None, None, None] * directions).mean(0, keepdim=True)
        momentum = 0.9 * momentum + gradient
        current = (current - 2 / 255 * momentum.sign()).clamp(image - 8 / 255, image + 8 / 255).clamp(0, 1)


def _decision(walk: str, *, unflagged: bool) -> Callable[[Answers, Tensor, int, int], None]:
    def run(answers: Answers, image: Tensor, label: int, seed: int) -> None:
        def decide(points: Tensor, _: Tensor) -> Tensor:
            probabilities, flagged = answers(points)
            return torch.from_numpy((probabilities.argmax(1) != label) & ~(flagged & unflagged))

        if unflagged and answers.starts is not None:
            photos = torch.from_numpy(answers.starts).float().div(255)
            starts = next(photo[None] for photo in photos if decide(photo[None], torch.zeros(1)))
        else:
            starts = random_starts(decide, image, ImageNoise(seed, 0), _START_TRIES)
        if walk == "boundary":
            boundary(decide, image, starts, seed=seed)
        else:
            hop_skip_jump(decide, image, starts, probe_width=_PROBE_WIDTH, seed=seed)

    return run


ATTACKS: dict[str, Callable[[Answers, Tensor, int, int], None]] = {
    "Square 8/255": _square(8 / 255),
    "Square 3/255": _square(3 / 255),
    "SimBA": _simba,
    "NES": _nes,
    "HopSkipJump": _decision("hop_skip_jump", unflagged=False),
    "Boundary": _decision("boundary", unflagged=False),
    "system": _decision("hop_skip_jump", unflagged=True),
}


def noisy(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels with noise of standard deviation 4/255."""
    return np.clip(np.rint(pixels + rng.normal(0, 4, pixels.shape)), 0, 255).astype(np.uint8)


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pixels, each image moved by up to two pixels; its edges are repeated."""
    padded = F.pad(torch.from_numpy(pixels).float(), (2, 2, 2, 2), mode="replicate").byte().numpy()
    height, width = pixels.shape[2:]
    places = rng.integers(0, 5, (len(pixels), 2)).tolist()
    return np.stack([
        image[:, i : i + height, j : j + width] for image, (i, j) in zip(padded, places, strict=True)
    ])  # fmt: skip
