"""The forward passes of one network, and the features of its batches."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.batching import fitting_batch
from models.engines import Engine
from models.errors import InputError, NetworkError
from models.features.features import Features
from models.features.requests import FeatureRequest, ForwardPass, Head, needs_of
from models.images.views import View
from models.residuals import (
    Discovery,
    StatisticsSpec,
    evaluation_mode,
    module_hooks,
    record_path,
)

__all__ = ["FeatureExtractor"]


class FeatureExtractor:
    """Runs a network for its logits, its statistics and the values of feature requests.

    There are two ways to run the network. Recording with hooks works for every network, and it is the only way to whole
    embeddings and to gradients. An engine computes logits, statistics and pooled vectors faster, but its construction
    takes several passes or more, so it suits a network that serves many batches.

    Args:
        network: in evaluation mode, on the device of the images.
        discovery: its branches.
        statistics_spec: the statistics of each branch; by default of the residues.
        feature_requests: requests with equal names are computed once.
        engine: runs the network, if it serves the requests (`Needs.served_by`); None to record with hooks.
        companion: a second network of the same classes, for requests of its logits.

    Raises:
        InputError: a request needs a companion, and none is given.
    """

    def __init__(
        self,
        network: nn.Module,
        discovery: Discovery,
        statistics_spec: StatisticsSpec | None = None,
        feature_requests: Sequence[FeatureRequest] = (),
        *,
        engine: Engine | None = None,
        companion: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network = network
        self.discovery = discovery
        self.statistics_spec = statistics_spec or StatisticsSpec()
        self.feature_requests = tuple({each.name: each for each in feature_requests}.values())
        self._names = [each.name for each in self.feature_requests]
        self.needs = needs_of(self.feature_requests)
        self.engine = engine if engine is not None and self.needs.served_by(engine) else None
        if self.needs.companion and companion is None:
            raise InputError("the detector compares the network with a companion, and none is given; give --companion")
        self._companion = companion

    def forward(self, images: Tensor) -> ForwardPass:
        """One pass of the images ``(B, 3, H, W)`` and their views as one batch; differentiable if gradients are on.

        Raises:
            NetworkError: logits that are not finite or not ``(B, K)``, or statistics that are not finite.
        """
        views = self.needs.views
        batch = torch.cat([images, *(view(images) for view in views)]) if views else images
        whole = self._run(batch)
        if not views and not self.needs.companion:
            return whole
        count = len(images)
        others = [_rows(whole, start, start + count) for start in range(count, len(batch), count)]
        companion = self._companion_logits(images, whole.logits.shape[1])
        return _rows(whole, 0, count, views=dict(zip(views, others, strict=True)), companion=companion)

    def extract(self, images: Tensor) -> Features:
        """The features of one batch ``(B, 3, H, W)`` that is on the network's device.

        Raises:
            NetworkError: as `forward`; also for requested values that are not finite.
        """
        with torch.inference_mode():
            forward_pass = self.forward(images)
            # The hooks are removed by now, so requests may run the network themselves.
            requested = {
                name: _values(name, each, forward_pass)
                for name, each in zip(self._names, self.feature_requests, strict=True)
            }
        return Features(forward_pass.logits.cpu().numpy(), forward_pass.statistics.cpu().numpy(), requested)

    def batch_size(self, image: Tensor, count: int, most: int = 256) -> int:
        """Images per batch of `extract` that the memory allows, at most `most`.

        Args:
            image: ``(1, 3, H, W)`` on the network's device.
            count: number of all images.
            most: maximum size.
        """
        # Torch's memory can be measured; an engine needs about as much.
        recording = FeatureExtractor(
            self.network, self.discovery, self.statistics_spec, self.feature_requests, companion=self._companion
        )
        with evaluation_mode(self.network):
            return fitting_batch(recording.extract, image, count, most)

    def _companion_logits(self, images: Tensor, num_classes: int) -> dict[View, Tensor]:
        """The companion's logits for the views that the requests need, from one batch."""
        views = self.needs.companion
        if not views or self._companion is None:
            return {}
        batch = torch.cat([view(images) for view in views])
        logits = _logits(self._companion(batch), len(batch))
        if logits.shape[1] != num_classes:
            raise NetworkError(
                f"expected {num_classes} logits from the companion, as from the network, got {logits.shape[1]}; give a "
                "companion of the same classes"
            )
        return dict(zip(views, torch.split(logits, len(images)), strict=True))

    def _run(self, batch: Tensor) -> ForwardPass:
        if self.engine is None:
            output, statistics, optional = self._record(batch)
        else:
            output, statistics, embeddings, residues = self.engine.run(batch)
            optional = {"pooled_embeddings": embeddings, "pooled_residues": residues}
        return ForwardPass(
            images=batch,
            logits=_logits(output, len(batch)),
            statistics=_finite(statistics, "statistics"),
            network=self.network,
            discovery=self.discovery,
            **optional,
        )

    def _record(self, batch: Tensor) -> tuple[Any, Tensor, dict[str, Any]]:
        """Output, statistics, and the optional fields of `ForwardPass` by name, recorded with hooks."""
        needs = self.needs
        optional: dict[str, Any] = {}
        with ExitStack() as stack:
            recordings = stack.enter_context(
                record_path(
                    self.network,
                    self.discovery,
                    self.statistics_spec,
                    pool=needs.pooled,
                    keep_embeddings=needs.embeddings,
                )
            )
            heads = stack.enter_context(_record_head(self.network)) if needs.embeddings else []
            output = self.network(batch)
        if needs.embeddings:
            optional |= {"embeddings": recordings["embeddings"].embeddings, "head": heads[0] if heads else None}
        if needs.pooled:
            optional |= {f"pooled_{name}": torch.cat(recording.pooled, dim=1) for name, recording in recordings.items()}
        return output, recordings[self.statistics_spec.quantity].statistics, optional


def _rows(whole: ForwardPass, start: int, stop: int, **changes: Any) -> ForwardPass:
    """The pass of some consecutive images of the batch, with some fields replaced."""
    head = whole.head
    return replace(
        whole,
        images=whole.images[start:stop],
        logits=whole.logits[start:stop],
        statistics=whole.statistics[start:stop],
        embeddings=tuple(embedding[start:stop] for embedding in whole.embeddings),
        pooled_embeddings=None if whole.pooled_embeddings is None else whole.pooled_embeddings[start:stop],
        pooled_residues=None if whole.pooled_residues is None else whole.pooled_residues[start:stop],
        head=head and head._replace(inputs=head.inputs[start:stop], output=head.output[start:stop]),
        **changes,
    )


@contextmanager
def _record_head(network: nn.Module) -> Iterator[list[Head]]:
    """A list that contains the latest layer with own weights that a tensor passed; empty until one did."""
    heads: list[Head] = []
    inputs: list[Tensor] = []
    calls: Counter[nn.Module] = Counter()

    def entered(args: Any, _kwargs: Any) -> None:
        inputs[:] = [args[0]] if args and isinstance(args[0], Tensor) else []

    def left_from(module: nn.Module) -> Any:
        def left(output: Any) -> None:
            found = inputs and isinstance(output, Tensor)
            heads[:] = [Head(module, inputs[0], output, calls[module])] if found else []
            calls[module] += 1

        return left

    layers = [
        module
        for module in network.modules()
        if not list(module.children()) and next(module.parameters(recurse=False), None) is not None
    ]
    with module_hooks((module, entered, left_from(module)) for module in layers):
        yield heads


def _values(name: str, feature_request: FeatureRequest, forward_pass: ForwardPass) -> NDArray[np.float32]:
    values = feature_request(forward_pass)
    array: NDArray[np.float32] = _finite(values, name).cpu().numpy()
    assert array.dtype == np.float32, name
    assert array.ndim > 1, name
    assert len(array) == len(forward_pass.images), name
    return array


def _logits(output: object, batch: int) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != batch:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(
            f"expected logits of shape ({batch}, K) from the network, got {got}; wrap it so that it returns only logits"
        )
    return _finite(output.float(), "logits")


def _finite(tensor: Tensor, name: str) -> Tensor:
    # A sum takes one fast pass, and is finite for all but the largest numbers.
    if not math.isfinite(float(tensor.detach().sum())) and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).flatten(1).any(dim=1).sum())
        raise NetworkError(
            f"expected finite {name}, got NaN or infinity for {bad} of {len(tensor)} images; "
            "check the network's weights and its precision"
        )
    return tensor
