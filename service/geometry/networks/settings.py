"""Settings of the measurement of a network's paths."""

from dataclasses import dataclass
from typing import Literal

from models.errors import InputError

__all__ = ["Disturbance", "GeometrySettings"]


@dataclass(frozen=True)
class Disturbance:
    """A perturbation of images: "fgm" with a budget, or Gaussian "noise" of a standard deviation, for pixels in [0, 1].

    >>> str(Disturbance("noise", 0.03))
    'noise, σ = 0.03'
    """

    kind: Literal["fgm", "noise"]
    size: float

    def __str__(self) -> str:
        return f"FGM, ε = {self.size:.4g}" if self.kind == "fgm" else f"noise, σ = {self.size:.4g}"


@dataclass(frozen=True, kw_only=True)
class GeometrySettings:
    """The measurements, and the numbers of their images.

    Args:
        disturbances: perturbations whose effect on the paths is measured.
        transport_images: number of images for assignments and important units; at least 2.
        seed: of noise, projections and the choice of those images.
        device: for the network.
        blocks: pattern of the names of the blocks (`models.residuals.discover`); None to find them.

    Raises:
        InputError: fewer than 2 images for assignments, a size that is not above 0 and at most 1, or a repeated size.
    """

    disturbances: tuple[Disturbance, ...] = ()
    transport_images: int = 500
    seed: int = 0
    device: str = "cpu"
    blocks: str | None = None

    def __post_init__(self) -> None:
        if self.transport_images < 2:
            raise InputError(f"expected --transport-images of at least 2, got {self.transport_images}; raise it")
        for each in self.disturbances:
            if not 0 < each.size <= 1:
                option = "--epsilon" if each.kind == "fgm" else "--noise"
                raise InputError(
                    f"expected {option} above 0 and at most 1, for pixels in [0, 1], got {each.size:g}; "
                    "give 'none' to leave it out"
                )
        names = [str(each) for each in self.disturbances]
        if len(set(names)) < len(names):
            raise InputError(f"expected sizes that differ in four digits, got {'; '.join(names)}; give each once")
