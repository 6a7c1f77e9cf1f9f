"""The network with its statistics as an ONNX model, written once when a detector is fitted."""

import copy
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.functional import avg_pool2d

from models.engines.base import EngineSource
from models.engines.graph import MAX_BYTES, output_names
from models.errors import NetworkError
from models.extras import import_optional
from models.residuals import WithPooled, WithStatistics, evaluation_mode
from models.residuals.pooling import has_channels_first, pooled
from models.residuals.statistics import Reduced, reduce_residue

__all__ = ["export_graph"]


def export_graph(source: EngineSource) -> bytes:
    """The ONNX model: ``images (B, 3, H, W)`` → logits, statistics, and pooled vectors if the source states them.

    It takes seconds, and imports torch's compiler.

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
    flat = _plain(_Flat(copy.deepcopy(rewritten)))
    images = torch.rand(2, *source.image_shape, generator=torch.Generator().manual_seed(0))
    names = output_names(len(source.discovery.branches) if source.pooled else 0)
    # The exporter reports on its progress with warnings and log lines.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), evaluation_mode(flat), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                flat, (images,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"], output_names=names, external_data=False, verbose=False,
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


def _plain(module: nn.Module) -> nn.Module:
    """The module in contiguous memory format; the exporter describes other formats by operations on indices.

    Feature maps are averaged by pooling, which the runtimes compute in the layout of the convolutions. For other
    reductions they reorder the whole map first.
    """
    for parent in list(module.modules()):
        if isinstance(parent, GraphModule):
            for node in parent.graph.nodes:
                node.target = _BY_POOLING.get(node.target, node.target)
            parent.recompile()
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _GlobalMean())
    return module.to(memory_format=torch.contiguous_format)


def _reduce_by_pooling(residue: Tensor, directions: Tensor | None = None) -> Reduced:
    """`reduce_residue` of feature maps ``(B, C, H, W)`` by pooling."""
    if directions is not None or not has_channels_first(residue):
        return reduce_residue(residue, directions)
    return _means(residue * residue).mean(dim=1).sqrt(), _means(residue).mean(dim=1, keepdim=True)


def _pooled_by_pooling(embedding: Tensor) -> Tensor:
    """`pooled` of feature maps ``(B, C, H, W)`` by pooling."""
    return _means(embedding) if has_channels_first(embedding) else pooled(embedding)


def _means(maps: Tensor) -> Tensor:
    return avg_pool2d(maps, maps.shape[2:]).flatten(1)


_BY_POOLING: dict[Any, Any] = {reduce_residue: _reduce_by_pooling, pooled: _pooled_by_pooling}


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
        logits, statistics, *pooled = self.rewritten(images)
        return (logits, statistics, *(vector for vectors in pooled for vector in vectors))
