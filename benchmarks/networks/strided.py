"""A small residual network of a user's file: it reads photos fast, so that a benchmark measures what is around it."""

from torch import Tensor, nn


class Strided(nn.Module):
    """Two residual blocks on every eighth pixel; logits (B, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)) for _ in range(2)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x)
        return logits


def strided(num_classes: int = 10) -> nn.Module:
    """Random weights."""
    return Strided(num_classes)
