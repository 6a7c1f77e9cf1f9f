"""What one pass over many images gives detectors: logits, path statistics, and what else they ask to be measured."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import InputError, NetworkError
from models.features.features import Features
from models.features.requests import FeatureRequest, ForwardPass, Head, Needs, needs_of
from models.progress import progress_bar
from models.residuals import Discovery, StatisticsSpec, WithPooled, discover, record_path
from models.residuals.hooks import evaluation_mode, watching

__all__ = ["extract_batch", "extract_features", "forward_pass"]


def extract_features(
    network: nn.Module,
    images: Tensor | NDArray[np.float32],
    *,
    discovery: Discovery | None = None,
    statistics_spec: StatisticsSpec | None = None,
    feature_requests: Sequence[FeatureRequest] = (),
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Features:
    """Features of N images ``(N, 3, H, W)``, in their order, from one forward pass each and without gradients.

    The network runs in evaluation mode, on `device`, where it stays; its mode is restored. The result does not depend
    on `batch_size`, except for rounding.

    Args:
        images: float32 in [0, 1], on any device; moved to the network batch by batch.
        discovery: the network's branches; found where not given.
        measure: what is measured of them.
        measurements: what is measured besides, into `Features.requested`; one that needs gradients or further passes
            makes them.
        progress: show a progress bar.

    Raises:
        InputError: images of another dtype or shape, outside [0, 1] or not finite; a batch size below 1.
        NetworkError: logits that are not finite or not ``(B, K)``, statistics or measurements that are not finite.
    """
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}; pass a larger one")
    batches = torch.split(_checked(images), batch_size)
    network.to(device)
    if discovery is None:
        height, width = batches[0].shape[-2:]
        discovery = discover(network, (3, height, width))
    parts = []
    with evaluation_mode(network), torch.inference_mode():
        for batch in progress_bar(batches, what="features", unit="batch", show=progress):
            _check_range(batch)
            parts.append(extract_batch(network, batch.to(device), discovery, statistics_spec, feature_requests))
    return Features.concatenated(parts)


def extract_batch(
    network: nn.Module,
    images: Tensor,
    discovery: Discovery,
    statistics_spec: StatisticsSpec | None = None,
    feature_requests: Sequence[FeatureRequest] = (),
    pooling: WithPooled | None = None,
) -> Features:
    """Features of one batch that is already on the network's device; the network is in evaluation mode.

    Args:
        pooling: see `forward_pass`.

    Raises:
        NetworkError: as `extract_features`.
    """
    wanted = list({feature_request.name: feature_request for feature_request in feature_requests}.values())
    with torch.inference_mode():
        # The recorders are gone before anything is measured: measurements may make passes of their own.
        context, statistics = forward_pass(network, images, discovery, statistics_spec, needs_of(wanted), pooling)
        requested = {feature_request.name: _measured(feature_request, context) for feature_request in wanted}
    return Features(context.logits.cpu().numpy(), statistics.cpu().numpy(), requested)


def forward_pass(
    network: nn.Module,
    images: Tensor,
    discovery: Discovery,
    statistics_spec: StatisticsSpec | None = None,
    needs: Needs = Needs(),  # noqa: B008 - a tuple
    pooling: WithPooled | None = None,
) -> tuple[ForwardPass, Tensor]:
    """A pass of a batch and its statistics, differentiable where gradients are on; for several at once, see
    `extract_batch`.

    Images and views go through the network as one batch.

    Args:
        pooling: the network with the same discovery and measure, to be called where pooled vectors are needed and no
            whole embeddings: the same outputs without hooks.

    Raises:
        NetworkError: logits that are not finite or not ``(B, K)``, statistics that are not finite.
    """
    seen = [images, *(view(images) for view in needs.views)]
    batch = torch.cat(seen) if needs.views else images
    found: dict[str, Any] = {}
    if pooling is not None and needs.pooled and not needs.embeddings:
        output, statistics, found["pooled_embeddings"], found["pooled_residues"] = pooling(batch)
    else:
        output, statistics, found = _recorded(network, batch, discovery, statistics_spec or StatisticsSpec(), needs)
    logits, statistics = _checked_output(output, len(batch)), _finite(statistics, "statistics")
    context = ForwardPass(batch, logits, network, discovery, statistics=statistics, **found)
    if not needs.views:
        return context, statistics
    parts = [_rows(context, first, first + len(images)) for first in range(0, len(batch), len(images))]
    return replace(parts[0], views=dict(zip(needs.views, parts[1:], strict=True))), statistics[: len(images)]


def _recorded(
    network: nn.Module, batch: Tensor, discovery: Discovery, statistics_spec: StatisticsSpec, needs: Needs
) -> tuple[Any, Tensor, dict[str, Any]]:
    """Output and statistics of a pass watched by hooks, and what else `ForwardPass` is to hold of it."""
    with ExitStack() as stack:
        recordings = stack.enter_context(
            record_path(network, discovery, statistics_spec, pool=needs.pooled, keep_embeddings=needs.embeddings)
        )
        last = stack.enter_context(_last_layer(network)) if needs.embeddings else []
        output = network(batch)
    found: dict[str, Any] = {}
    if needs.embeddings:
        found |= {"embeddings": recordings["embeddings"].embeddings, "head": last[0] if last else None}
    if needs.pooled:
        found |= {f"pooled_{of}": recording.pooled for of, recording in recordings.items()}
    return output, recordings[statistics_spec.quantity].statistics, found


def _rows(context: ForwardPass, first: int, end: int) -> ForwardPass:
    """The part of a pass that some images of its batch made."""
    head, statistics = context.head, context.statistics
    return replace(
        context,
        images=context.images[first:end],
        logits=context.logits[first:end],
        embeddings=tuple(embedding[first:end] for embedding in context.embeddings),
        pooled_embeddings=tuple(vector[first:end] for vector in context.pooled_embeddings),
        pooled_residues=tuple(vector[first:end] for vector in context.pooled_residues),
        head=head and Head(head.module, head.inputs[first:end], head.output[first:end]),
        statistics=None if statistics is None else statistics[first:end],
    )


def _measured(feature_request: FeatureRequest, context: ForwardPass) -> NDArray[np.float32]:
    values = feature_request(context)
    assert values.dtype == torch.float32, feature_request.name
    assert values.dim() > 1, feature_request.name
    assert len(values) == len(context.images), feature_request.name
    array: NDArray[np.float32] = _finite(values, feature_request.name).cpu().numpy()
    return array


@contextmanager
def _last_layer(network: nn.Module) -> Iterator[list[Head]]:
    """A list that holds the latest layer with weights of its own that a tensor went through, once one did."""
    last: list[Head] = []
    entered: list[Tensor] = []

    def entering(args: Any, _kwargs: Any) -> None:
        entered[:] = [args[0]] if args and isinstance(args[0], Tensor) else []

    def leaving(module: nn.Module) -> Any:
        def left(output: Any) -> None:
            last[:] = [Head(module, entered[0], output)] if entered and isinstance(output, Tensor) else []

        return left

    layers = [
        module
        for module in network.modules()
        if not list(module.children()) and next(module.parameters(recurse=False), None) is not None
    ]
    with watching((module, entering, leaving(module)) for module in layers):
        yield last


def _checked(images: Tensor | NDArray[np.float32]) -> Tensor:
    if not isinstance(images, Tensor | np.ndarray):
        raise InputError(f"expected a tensor or an array of images, got {type(images).__name__}; convert them first")
    if str(images.dtype).removeprefix("torch.") != "float32" or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"expected float32 images (N, 3, H, W) in [0, 1], got {images.dtype} of shape {tuple(images.shape)}; "
            "convert bytes by dividing by 255, and move the channels to the second axis"
        )
    if 0 in images.shape:
        raise InputError(f"expected at least one image, got shape {tuple(images.shape)}; check where they come from")
    return images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))


def _check_range(batch: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(batch))
    if not (low >= 0.0 and high <= 1.0):  # a NaN fails both
        raise InputError(
            f"expected images in [0, 1], got values from {low:g} to {high:g}; scale bytes by 1/255, and let the "
            "network normalise inside (models.normalization.Normalized)"
        )


def _checked_output(output: object, batch: int) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != batch:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(
            f"expected logits of shape ({batch}, K) from the network, got {got}; wrap it so that it gives only logits"
        )
    return _finite(output.float(), "logits")


def _finite(tensor: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).flatten(1).any(dim=1).sum())
        raise NetworkError(
            f"expected finite {what}, got {bad} of {len(tensor)} images with NaN or infinite ones; "
            "check the network's weights and its precision"
        )
    return tensor
