"""Records of a network's residual branches."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from models.errors import NetworkError
from models.residuals.pooling import pooled_width
from models.residuals.statistics import BlockTensor
from models.residuals.tracing.trace import CapturePoint

__all__ = ["Branch", "Discovery", "SkippedBranch", "Term"]


@dataclass(frozen=True)
class Term:
    """A captured tensor and its factor in the sum that gives a residue or an embedding."""

    capture_point: CapturePoint
    factor: float = 1.0


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Args:
        name: dotted name of the deepest module that contains all weights of the branch; "#2" and so on if one module
            makes several branches.
        shape: of one residue, without the batch axis.
        kind: "addition": the branch's output at a sum x + r(x), before any operation that follows the sum; or
            "block_difference": x_{m+1} - x_m of a block that the caller named, or of a layer that keeps its input's
            shape, in networks without residual additions.
        batch_axis: position of the batch axis in the network's own tensors (0, or 1 in sequence-first transformers).
        residue, embedding: the terms whose sum is r_m and x_{m+1}.
        skip: the terms whose sum is x_m as it enters the sum (for a layer: its input).
        site: the call of the trace that ends the block (for a layer: begins it); -1 for a named block.
        side: which operand of that call the branch is.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["addition", "block_difference"]
    batch_axis: int = field(default=0, repr=False)
    residue: tuple[Term, ...] = field(default=(), repr=False)
    embedding: tuple[Term, ...] = field(default=(), repr=False)
    skip: tuple[Term, ...] = field(default=(), repr=False)
    site: int = field(default=-1, repr=False)
    side: int = field(default=0, repr=False)

    def terms(self, quantity: BlockTensor) -> tuple[Term, ...]:
        """The terms whose sum is the residue or the embedding.

        Raises:
            NetworkError: the sum after the branch cannot be captured.
        """
        terms = self.residue if quantity == "residues" else self.embedding
        if not terms:
            raise NetworkError(
                f"the {quantity} of branch {self.name!r} cannot be captured; "
                "use the residues, or branches that discover() returns"
            )
        return terms


@dataclass(frozen=True)
class SkippedBranch:
    """A block or an addition that is not recorded, and the reason."""

    name: str
    why: str


@dataclass(frozen=True)
class Discovery:
    """Residual branches in execution order, and the skipped ones.

    Args:
        branches, skipped_branches: in execution order.
        blocks: the pattern that names the blocks (`named_blocks`); None if they were found by their additions or
            layers.
    """

    branches: tuple[Branch, ...]
    skipped_branches: tuple[SkippedBranch, ...]
    blocks: str | None = None

    @cached_property
    def pooled_widths(self) -> tuple[int, ...]:
        """Number of entries of each branch's embedding, averaged over the positions in the image."""
        return tuple(pooled_width(branch.shape) for branch in self.branches)
