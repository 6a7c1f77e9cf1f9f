"""Residual blocks in many styles, each with a separate computation of its residue and its sum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A block whose `step` says by itself what its residue, its sum x + r and its output are."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = self.branch(x)
        return residue, x + residue, x + residue


class PlainSum(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class BranchFirst(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += x
        return F.relu_(out)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = self.branch(x)
        return residue, x + residue, (x + residue).relu()


class SkipInPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        identity = x.clone()
        identity.add_(self.branch(x))
        return identity


class AddWithAlpha(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.branch(x), alpha=0.5)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = 0.5 * self.branch(x)
        return residue, x + residue, x + residue


class AddByKeyword(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(input=x, other=self.branch(x))


class OtherFirst(Block):
    """Keywords in another order, further additions, and a residue that is not at a module boundary."""

    def inner(self, x: Tensor) -> Tensor:
        return torch.tanh(self.branch(torch.add(x, 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(torch.add(input=x, other=0.5))
        return torch.add(torch.add(other=inner, input=x, alpha=0.5), 1.0)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = 0.5 * self.inner(x + 0.5)
        return residue, x + residue, x + residue + 1


class SubtractedByKeyword(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sub(other=self.branch(x), input=x)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = -self.branch(x)
        return residue, x + residue, x + residue


class Scaled(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.25 * self.branch(x)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = 0.25 * self.branch(x)
        return residue, x + residue, x + residue


class Subtracted(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x - self.branch(x)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = -self.branch(x)
        return residue, x + residue, x + residue


class FunctionalLayers(Block):
    """Functions and parameters only: no sub-module is called."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        out = torch.tanh(out)
        return F.relu(x + out)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1).tanh()
        return residue, x + residue, (x + residue).relu()


class Dropped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.branch(x), 0.5, training=self.training)


class DataDependent(Block):
    """Goes one of two ways, by what the images are; torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 100:
            return x + 2 * self.branch(x)
        return x + self.branch(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class UnseenFunction(Block):
    """The branch contains a function that torch cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(Doubled.apply(self.conv(x)))

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = self.norm(2 * self.conv(x))
        return residue, x + residue, x + residue


class LambdaShortcut(Block):
    """The CIFAR ResNet's second kind of block: half the size, twice the channels, a shortcut without parameters."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.narrow = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)
        self.deepen = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        pad = channels // 2
        self.shortcut: Callable[[Tensor], Tensor] = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))

    def branch(self, x: Tensor) -> Tensor:
        return self.deepen(F.relu(self.widen(x)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        return self.narrow(F.relu(out + self.shortcut(x)))

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = self.branch(x)
        total = residue + self.shortcut(x)
        return residue, total, self.narrow(total.relu())


class Projected(Block):
    """The skip is a layer itself; the branch has more of them."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(self.first(x)) + self.projection(x))

    def step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residue = self.branch(self.first(x))
        total = residue + self.projection(x)
        return residue, total, total.relu()


BLOCKS: list[type[Block]] = [
    PlainSum,
    BranchFirst,
    InPlace,
    SkipInPlace,
    AddWithAlpha,
    AddByKeyword,
    OtherFirst,
    SubtractedByKeyword,
    Scaled,
    Subtracted,
    FunctionalLayers,
    Dropped,
    DataDependent,
    UnseenFunction,
    LambdaShortcut,
    Projected,
]


class Parallel(Block):
    """Two branches of one input, one after the other; the first has more layers."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.first = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.first(x) + self.branch(x)

    def parallel_steps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(residue, sum) of each branch."""
        first, second = self.first(x), self.branch(x)
        return [(first, x + first), (second, x + first + second)]


class ParallelAfterANorm(Parallel):
    """As transformers with parallel attention and MLP: both branches read one normalised input."""

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return self.conv(normed) + (x + self.first(normed)).clone()

    def parallel_steps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        first, second = self.first(self.norm(x)), self.conv(self.norm(x))
        return [(first, x + first), (second, x + first + second)]


class ThreeParallel(Parallel):
    """The heaviest first, and two of one weight."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        entering = x
        x = x + self.first(entering)
        x = x + self.last(entering)
        return x + self.conv(entering)

    def parallel_steps(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        residues = [self.first(x), self.last(x), self.conv(x)]
        return [(residue, x + sum(residues[: index + 1])) for index, residue in enumerate(residues)]


PARALLEL: list[type[Parallel]] = [Parallel, ParallelAfterANorm, ThreeParallel]


class Stacked(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, self.branch(x)]).sum(0)


class Interpolated(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.branch(x), 0.5)


class MultipliedIn(Block):
    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.scale, self.branch(x))


UNTOLD: list[type[Block]] = [Stacked, Interpolated, MultipliedIn]


class Chain(nn.Module):
    """Two blocks of a kind between a stem and a head; logits ``(B, 5)`` of images 3×8×8 or larger."""

    def __init__(self, kind: type[Block], *, shared: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        first = kind(4)
        self.blocks = nn.ModuleList([first, first if shared else kind(4)])
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))

    def steps(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The residues and the sums, worked out block by block."""
        residues, sums = [], []
        x = self.stem(x)
        for block in self.blocks:
            assert isinstance(block, Block)
            residue, total, x = block.step(x)
            residues.append(residue)
            sums.append(total)
        return residues, sums


def chain(kind: type[Block], *, shared: bool = False) -> Chain:
    """A chain with random normalisation statistics, in evaluation mode."""
    network = Chain(kind, shared=shared)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return network.eval()


class SequenceFirst(nn.Module):
    """A transformer whose tensors are (length, batch, width): the batch axis comes second."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.zeros(4, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).permute(2, 0, 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(x)
        return self.head(x.mean(0))


class Perceptron(nn.Module):
    """No skip connections; two of its layers keep their input's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(inplace=True),
            nn.Linear(16, 16),
            nn.Tanh(),
            nn.Linear(16, 5),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def steps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        first = self.layers[1](images.flatten(1)).relu()
        second = self.layers[3](first).relu()
        third = self.layers[5](second).tanh()
        return [second - first, third - second], [second, third]


class Shrinking(nn.Module):
    """Neither a residual addition nor a layer that keeps its input's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).mean(dim=(2, 3)))
