"""The fastest engine that agrees with torch, measured once on natural images."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.engines.agreement import TOLERANCES, Agreement, compare, find_smallest_batch
from models.engines.base import Engine, EngineSource, Precision, build_engine
from models.engines.exporting import export_graph
from models.engines.graph import check_graph
from models.engines.torch import TorchEngine
from models.errors import InputError, MissingExtraError, NetworkError
from models.registry import ENGINES

__all__ = ["AUTO", "EngineChoice", "choose_engine"]

AUTO = "auto"
_BATCH = 16  # images of the larger timed batch, and of each batch that is compared
_ROUNDS = 5


@dataclass(frozen=True)
class EngineChoice:
    """The chosen engine.

    Args:
        engine: the engine.
        agreement: with torch in float32; None for torch in float32.
        refused: engine → reason, of those that were considered and cannot be used.
        seconds: engine → seconds of a batch of 1 and of 16; empty if there was no choice.
    """

    engine: Engine
    agreement: Agreement | None
    refused: dict[str, str]
    seconds: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """JSON values for the provenance."""
        agreement = None if self.agreement is None else asdict(self.agreement)
        return {**self.engine.to_json(), "agreement": agreement, "refused": self.refused, "seconds": self.seconds}

    def summary(self) -> str:
        """Engine, agreement and refused engines as text, one per line."""
        name, smallest = f"{self.engine.name} in {self.engine.precision}", self.engine.smallest_batch
        lines = [f"engine: {name}"]
        if agreement := self.agreement:
            alone = "" if smallest == 1 else f", if small batches are filled up to {smallest} images"
            lines = [
                f"engine: {name}; on {agreement.images} images, {agreement.classes or 'no'} predicted classes differ "
                f"from torch in float32, logits by up to {agreement.logits:.2g}, statistics by up to "
                f"{agreement.statistics:.2g}; bits are the same alone and in a batch{alone}"
            ]
        return "\n".join(lines + [f"engine {name} is not used: {reason}" for name, reason in self.refused.items()])


def choose_engine(name: str, precision: Precision, source: EngineSource, images: Tensor) -> EngineChoice:
    """The engine `name`, or for "auto" the fastest that agrees with torch; torch if no other does.

    An engine agrees if the `relative_error` of logits, statistics and pooled vectors is at most `TOLERANCES`, and if an
    image has the same bits in every batch from `Engine.smallest_batch` on, which is measured. Torch in float32 is the
    reference and is always used if no other engine agrees.

    Args:
        name: of an engine, or "auto".
        precision: of the engine.
        source: the network; its graph is made here.
        images: natural images ``(B, 3, H, W)`` on the network's device, for the comparison.

    Raises:
        InputError: an engine that cannot be used, or none in this precision.
        MissingExtraError: the named engine's package is not installed.
        UnknownNameError: no such engine.
    """
    if name == AUTO:
        candidates = [each for each in ENGINES.names() if precision in ENGINES.load(each).precisions]
    else:
        ENGINES.load(name)  # raises for an unknown name
        candidates = [name]
    with torch.inference_mode():
        reference = TorchEngine(source)
        expected = _results(reference, images)
        usable: dict[str, tuple[Engine, Agreement | None]] = {}
        refused: dict[str, str] = {}
        for each in candidates:
            if each == reference.name and precision == reference.precision:
                reference.smallest_batch = _measured_batch(reference, images)
                usable[each] = (reference, None)
                continue
            try:
                if ENGINES.load(each).needs_graph:
                    source = _with_graph(source, precision, *(each.shape[1] for each in expected[:2]))
                usable[each] = _checked(each, precision, source, images, expected)
            except (NetworkError, MissingExtraError, InputError) as exc:
                if name != AUTO:
                    raise InputError(f"the engine {each} cannot be used: {exc}; use --engine auto or torch") from exc
                refused[each] = str(exc)
        if not usable:
            raise InputError(f"no engine can be used in {precision}: {refused}; use --precision float32")
        seconds = _timed([engine for engine, _ in usable.values()], images) if len(usable) > 1 else {}
    fastest = min(usable, key=lambda each: np.prod(seconds.get(each, (0.0,))))
    engine, agreement = usable[fastest]
    return EngineChoice(engine, agreement, refused, seconds)


def _with_graph(source: EngineSource, precision: Precision, classes: int, columns: int) -> EngineSource:
    """The source with a graph that can be loaded again."""
    if next(source.network.parameters()).device.type != "cpu":
        raise InputError("it runs on CPUs only")
    graph = source.graph or export_graph(source, precision)
    check_graph(graph, image_shape=source.image_shape, classes=classes, columns=columns, widths=source.widths)
    return replace(source, graph=graph)


def _checked(
    name: str, precision: Precision, source: EngineSource, images: Tensor, expected: list[np.ndarray]
) -> tuple[Engine, Agreement]:
    """The engine, and its agreement with torch."""
    engine = build_engine(name, precision, source)
    try:
        smallest = find_smallest_batch(engine, images[: _BATCH + 4])
        agreement = compare(_results(engine, images), expected)
    except RuntimeError as exc:  # the runtime does not support some operator
        raise NetworkError(str(exc)) from exc
    engine.smallest_batch = max(engine.smallest_batch, smallest)
    if not agreement.error <= TOLERANCES[precision]:
        raise NetworkError(
            f"its results differ from those of torch by a relative error of {agreement.error:.2g}; at most "
            f"{TOLERANCES[precision]:g} is allowed"
        )
    return engine, agreement


def _results(engine: Engine, images: Tensor) -> list[np.ndarray]:
    """Logits, statistics, and pooled vectors if there are any, of all images."""
    passes = [engine.run(batch) for batch in torch.split(images, _BATCH)]
    parts = [[values for values in each if values is not None] for each in passes]
    return [torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True)]


def _measured_batch(reference: Engine, images: Tensor) -> int:
    try:
        return max(reference.smallest_batch, find_smallest_batch(reference, images[: _BATCH + 4]))
    except NetworkError:  # on GPUs, bits can depend on every size
        return reference.smallest_batch


def _timed(engines: list[Engine], images: Tensor) -> dict[str, tuple[float, float]]:
    """Seconds of a batch of one and of 16 images, each the least of interleaved rounds."""
    sizes = (1, _BATCH)
    best = {engine.name: [float("inf")] * len(sizes) for engine in engines}
    for _ in range(_ROUNDS):
        for engine in engines:
            for index, size in enumerate(sizes):
                batch = images[: max(size, engine.smallest_batch)]
                start = time.perf_counter()
                engine.run(batch).logits.cpu()
                best[engine.name][index] = min(best[engine.name][index], time.perf_counter() - start)
    return {name: (one, many) for name, (one, many) in best.items()}
