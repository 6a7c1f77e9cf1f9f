"""The contract of engines, which run a network for its logits, statistics and pooled vectors.

An engine is one file in this folder with one class. It takes an `EngineSource` and a precision, and runs batches. It
computes the same as the network in torch, up to rounding, and for an image the same bits alone and in any batch of at
least `smallest_batch` images. `models.engines.agreement` checks both; torch in float32 is the reference.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from models.engines.graph import OUTPUTS
from models.errors import InputError
from models.registry import ENGINES
from models.residuals import Discovery, PooledPass, StatisticsSpec

__all__ = ["PRECISIONS", "Engine", "EngineSource", "Precision", "build_engine", "engine_info"]

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, eq=False, kw_only=True)
class EngineSource:
    """The network that an engine runs.

    Args:
        network: in evaluation mode, on its device.
        discovery: its branches.
        statistics_spec: the statistics of each branch.
        image_shape: (3, H, W).
        pooled: whether pooled vectors are computed.
        graph: the same network as an ONNX model, for engines with `needs_graph`; checked by `check_graph`.
    """

    network: nn.Module
    discovery: Discovery
    statistics_spec: StatisticsSpec
    image_shape: tuple[int, int, int]
    pooled: bool
    graph: bytes | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Lengths of the pooled vectors of all blocks; empty if none are computed."""
        return self.discovery.pooled_widths if self.pooled else ()


class Engine(ABC):
    """Runs one network in one precision; call it from one thread at a time.

    Args:
        source: the network.
        precision: one of `precisions`.

    Attributes:
        largest_batch: images that one thread runs at once; None for all. `run` divides larger batches: activations of
            few images stay in the processor's cache and need less memory.

    Raises:
        InputError: a precision or a device that the engine does not support.
        MissingExtraError: a package is not installed.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]] = PRECISIONS
    needs_graph: ClassVar[bool] = True
    largest_batch: ClassVar[int | None] = None

    def __init__(self, source: EngineSource, precision: Precision = "float32") -> None:
        if precision not in self.precisions:
            raise InputError(
                f"the engine {self.name} supports {' and '.join(self.precisions)} only, got {precision!r}; "
                "use --engine openvino or --engine torch"
            )
        self.precision = precision
        self.graph = source.graph if self.needs_graph else None
        self.pooled = source.pooled
        self.smallest_batch = 1

    def run(self, images: Tensor) -> PooledPass:
        """Logits, statistics and pooled vectors (None unless the source states them), float32, on the CPU.

        Args:
            images: float32 ``(B, 3, H, W)`` in [0, 1].

        Raises:
            MemoryError: memory ran out; a smaller batch may fit.
            RuntimeError: the runtime failed, for example at an operator that it does not support.
        """
        most = self.largest_batch and self.largest_batch * torch.get_num_threads()
        if not most or len(images) <= most:
            return self._run(images)
        # Parts of about equal size: none is smaller than `smallest_batch`.
        parts = [self._run(part) for part in images.tensor_split(-(-len(images) // most))]
        logits, statistics, *pooled = zip(*parts, strict=True)
        joined = (None if each[0] is None else torch.cat(each) for each in pooled)
        return PooledPass(torch.cat(logits), torch.cat(statistics), *joined)

    @abstractmethod
    def _run(self, images: Tensor) -> PooledPass:
        """Like `run`, for all images at once."""

    def to_json(self) -> dict[str, Any]:
        """The fields of the artifact's manifest."""
        return {"name": self.name, "precision": self.precision, "smallest_batch": self.smallest_batch}

    def _pass(self, outputs: list[Tensor]) -> PooledPass:
        """The outputs of a graph, in its order."""
        if len(outputs) <= len(OUTPUTS):
            return PooledPass(*outputs)
        logits, statistics, *separate = outputs
        middle = len(separate) // 2
        return PooledPass(logits, statistics, torch.cat(separate[:middle], dim=1), torch.cat(separate[middle:], dim=1))


def engine_info(engine: Engine | None) -> dict[str, str]:
    """Name and precision, as JSON values; None stands for torch with hooks."""
    if engine is None:
        return {"name": "torch", "precision": "float32"}
    return {"name": engine.name, "precision": engine.precision}


def build_engine(name: str, precision: Precision, source: EngineSource) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: no such engine.
        InputError, MissingExtraError: see `Engine`.
    """
    engine: Engine = ENGINES.load(name)(source, precision)
    return engine
