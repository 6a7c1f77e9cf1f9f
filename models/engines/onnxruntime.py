"""ONNX Runtime on CPUs, in float32."""

from typing import Any

import torch
from torch import Tensor

from models.engines._threads import PerThreadCount
from models.engines.base import Engine, EngineSource, Precision
from models.extras import import_optional
from models.residuals import PooledPass

__all__ = ["OnnxRuntimeEngine"]


class OnnxRuntimeEngine(Engine):
    """A session of ONNX Runtime, with as many threads as torch has on the thread that runs it."""

    name = "onnxruntime"
    precisions = ("float32",)
    largest_batch = 16

    def __init__(self, source: EngineSource, precision: Precision = "float32") -> None:
        super().__init__(source, precision)
        self._runtime = import_optional("onnxruntime")
        self._session = PerThreadCount(self._open)

    def _run(self, images: Tensor) -> PooledPass:
        try:
            outputs = self._session.get().run(None, {"images": images.cpu().contiguous().numpy()})
        except Exception as exc:  # the runtime's exceptions have no common type of their own
            if "allocate memory" in str(exc) or "bad_alloc" in str(exc):
                raise MemoryError(str(exc)) from exc
            raise RuntimeError(f"ONNX Runtime failed: {exc}") from exc
        return self._pass([torch.from_numpy(output) for output in outputs])

    def _open(self, threads: int) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        # Plans of memory are kept for every size of batch: 100 MiB for a small network, and no gain in time.
        options.enable_mem_pattern = False
        # Threads that wait actively take time from decoding and from other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return self._runtime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
