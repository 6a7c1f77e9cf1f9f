"""The network with its statistics as an ONNX model, written once when a detector is fitted."""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.functional import avg_pool2d, conv2d

from models.engines.base import EngineSource, Precision
from models.engines.graph import MAX_BYTES, OUTPUTS
from models.errors import NetworkError
from models.extras import import_optional
from models.residuals import WithPooled, WithStatistics, evaluation_mode
from models.residuals.pooling import has_channels_first, pooled
from models.residuals.statistics import Reduced, finish, reduce_residue

__all__ = ["export_graph"]

_LARGEST_CELL = 8  # positions along a side
_SMALLEST_RMS = 1e-19  # of a residue; the square is the smallest normal number of float32


def export_graph(source: EngineSource, precision: Precision = "float32") -> bytes:
    """The ONNX model: ``images (B, 3, H, W)`` → logits, statistics, and pooled vectors if the source states them.

    It takes seconds, and imports torch's compiler. Every model can run in either precision; `precision` selects the
    operations that take the least time in it.

    Raises:
        NetworkError: the network cannot be exported; the message states the reason.
        MissingExtraError: a package is not installed.
    """
    for package in ("onnx", "onnxscript"):
        import_optional(package)
    kind = WithPooled if source.pooled else WithStatistics
    rewritten: WithPooled | WithStatistics = kind(
        source.network, source.discovery, statistics_spec=source.statistics_spec, image_shape=source.image_shape
    ).eval()
    if rewritten.why_not_rewritten is not None:
        raise NetworkError(rewritten.why_not_rewritten)
    flat = _plain(_Flat(copy.deepcopy(rewritten)), _IN_CELLS if precision == "bfloat16" else _BY_POOLING)
    names = OUTPUTS if source.pooled else OUTPUTS[:2]
    images = torch.rand(2, *source.image_shape, generator=torch.Generator().manual_seed(0))
    # The exporter reports on its progress with warnings and log lines.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), evaluation_mode(flat), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                flat, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"], output_names=list(names), external_data=False, verbose=False,
            )  # fmt: skip
        model = program.model_proto
        _strip(model)
        if model.ByteSize() > MAX_BYTES:
            raise NetworkError(f"its graph has {model.ByteSize():,} bytes, and an ONNX model has at most {MAX_BYTES:,}")
        graph: bytes = model.SerializeToString()
    except NetworkError:
        raise
    except Exception as exc:  # the exporter fails in many ways
        reason = str(exc).strip().partition("\n")[0]
        raise NetworkError(f"the export to ONNX failed: {type(exc).__name__}: {reason:.200}") from exc
    finally:
        logger.setLevel(level)
    return graph


def _strip(model: Any) -> None:
    """Delete shapes of values, and descriptions, which contain paths of this machine."""
    del model.graph.value_info[:]
    for each in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del each.metadata_props[:]
        each.doc_string = ""


def _plain(module: nn.Module, replaced: Mapping[Any, Any]) -> nn.Module:
    """The module in contiguous memory format; the exporter describes other formats by operations on indices.

    Feature maps are averaged by pooling, which the runtimes compute in the layout of the convolutions. For other
    reductions they reorder the whole map first.
    """
    for parent in list(module.modules()):
        if isinstance(parent, GraphModule):
            for node in parent.graph.nodes:
                node.target = replaced.get(node.target, node.target)
            parent.recompile()
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _GlobalMean())
    return module.to(memory_format=torch.contiguous_format)


def _reduce_by_pooling(residue: Tensor, directions: Tensor | None = None) -> Reduced:
    """As `reduce_residue`; of feature maps without directions, means ``(B, C, 1, 1)`` of squares and of values."""
    if directions is not None or not has_channels_first(residue):
        return reduce_residue(residue, directions)
    return _means(residue * residue), _means(residue)


def _finish_by_pooling(reduced: Sequence[Reduced]) -> Tensor:
    """`finish` of the results of `_reduce_by_pooling`, in few operations if all are means."""
    if any(size.dim() != 4 for size, _ in reduced):
        return finish([_without_means(*pair) for pair in reduced])
    runs = [list(run) for _, run in groupby(reduced, key=lambda pair: pair[0].shape[1])]
    squares, values = (
        torch.cat([_channel_means(each) for each in both], dim=1)
        for both in zip(*(zip(*run, strict=True) for run in runs), strict=True)
    )
    cosines = (values / squares.sqrt().clamp(min=_SMALLEST_RMS)).clamp(-1.0, 1.0)
    return torch.stack([squares, cosines], dim=2).flatten(1)


def _without_means(size: Tensor, coordinates: Tensor) -> Reduced:
    """The result of `reduce_residue` for one of `_reduce_by_pooling`."""
    if size.dim() != 4:
        return size, coordinates
    return size.mean(dim=(1, 2, 3)).sqrt(), coordinates.mean(dim=(1, 2, 3)).unsqueeze(1)


def _channel_means(maps: Sequence[Tensor]) -> Tensor:
    """``(B, L)`` of L tensors ``(B, C, 1, 1)``."""
    return torch.cat(list(maps), dim=1).reshape(maps[0].shape[0], len(maps), -1).mean(dim=2)


def _pooled_by_pooling(embedding: Tensor) -> Tensor:
    """`pooled`; of feature maps ``(B, C, H, W)``, ``(B, C, 1, 1)``."""
    return _means(embedding) if has_channels_first(embedding) else pooled(embedding)


def _means(maps: Tensor) -> Tensor:
    return avg_pool2d(maps, maps.shape[2:])


def _reduce_in_cells(residue: Tensor, directions: Tensor | None = None) -> Reduced:
    """As `_reduce_by_pooling`."""
    if directions is not None or not has_channels_first(residue):
        return reduce_residue(residue, directions)
    return _means_in_cells(residue * residue), _means_in_cells(residue)


def _pooled_in_cells(embedding: Tensor) -> Tensor:
    """As `_pooled_by_pooling`."""
    return _means_in_cells(embedding) if has_channels_first(embedding) else pooled(embedding)


def _means_in_cells(maps: Tensor) -> Tensor:
    """`_means`, first of square cells by a convolution, then of all cells.

    OpenVINO computes everything after the last convolution in float32, the sums of the network's blocks included. With
    this convolution the sums stay in bfloat16. It rounds the means of the cells, and rounding errors of several cells
    average out.
    """
    channels, height, width = maps.shape[1:]
    most = max(1, min(_LARGEST_CELL, height // 2, width // 2))
    side = max(side for side in range(1, most + 1) if height % side == width % side == 0)
    cells = conv2d(maps, torch.full((channels, 1, side, side), side**-2.0), stride=side, groups=channels)
    return _means(cells)


_BY_POOLING: dict[Any, Any] = {
    reduce_residue: _reduce_by_pooling, finish: _finish_by_pooling, pooled: _pooled_by_pooling
}  # fmt: skip
_IN_CELLS = _BY_POOLING | {reduce_residue: _reduce_in_cells, pooled: _pooled_in_cells}


class _GlobalMean(nn.Module):
    """The mean over the positions in the image; torch's own pooling keeps the layout of its input."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(-2, -1), keepdim=True)


class _Flat(nn.Module):
    """The outputs of a rewritten network as one flat tuple."""

    def __init__(self, rewritten: WithPooled | WithStatistics) -> None:
        super().__init__()
        self.rewritten = rewritten

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, statistics, *pooled = self.rewritten.network(images)
        return (logits, statistics, *map(_side_by_side, pooled))


def _side_by_side(vectors: Sequence[Tensor]) -> Tensor:
    if any(each.dim() != 4 for each in vectors):
        vectors = [each.flatten(1) for each in vectors]
    return torch.cat(list(vectors), dim=1).flatten(1)
