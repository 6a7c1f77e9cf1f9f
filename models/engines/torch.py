"""The network in PyTorch, with a graph that computes the statistics without hooks."""

import copy

import torch
from torch import Tensor, nn

from models.engines.base import Engine, EngineSource, Precision
from models.residuals import PooledPass, WithPooled, WithStatistics

__all__ = ["TorchEngine"]

_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class TorchEngine(Engine):
    """The rewritten graph (`models.residuals.WithStatistics`), on any device.

    In bfloat16, a channels-last copy runs under autocast: convolutions and products in bfloat16; sums, norms and
    statistics in float32. A single image is repeated, since a batch of one takes other kernels.
    """

    name = "torch"
    needs_graph = False

    def __init__(self, source: EngineSource, precision: Precision = "float32") -> None:
        super().__init__(source, precision)
        kind = WithPooled if source.pooled else WithStatistics
        self._module: WithPooled | WithStatistics = kind(
            source.network, source.discovery, statistics_spec=source.statistics_spec, image_shape=source.image_shape
        ).eval()
        self.smallest_batch = 2
        if precision == "bfloat16":
            self._module = copy.deepcopy(self._module).to(memory_format=torch.channels_last)
            for module in self._module.modules():
                if isinstance(module, _CAST):
                    module.to(torch.bfloat16)  # once; autocast would do it in every pass

    def _run(self, images: Tensor) -> PooledPass:
        if self.precision == "float32":
            outputs = self._module(images)
        else:
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                outputs = self._module(images.contiguous(memory_format=torch.channels_last))
        logits, *others = outputs
        return PooledPass(logits.float(), *others)
