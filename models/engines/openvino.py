"""OpenVINO on CPUs, in float32 or bfloat16."""

from typing import Any

import torch
from torch import Tensor

from models.engines._threads import PerThreadCount
from models.engines.base import Engine, EngineSource, Precision
from models.errors import InputError
from models.extras import import_optional
from models.residuals import PooledPass

__all__ = ["OpenvinoEngine"]

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenvinoEngine(Engine):
    """A compiled model of OpenVINO, with as many threads as torch has on the thread that runs it."""

    name = "openvino"
    largest_batch = 32

    def __init__(self, source: EngineSource, precision: Precision = "float32") -> None:
        super().__init__(source, precision)
        self._openvino = import_optional("openvino")
        self._request = PerThreadCount(self._compile)

    def _run(self, images: Tensor) -> PooledPass:
        request = self._request.get()
        try:
            request.infer([images.cpu().contiguous().numpy()], share_inputs=True, share_outputs=True)
        except RuntimeError as exc:
            if "bad_alloc" in str(exc) or "allocate" in str(exc):
                raise MemoryError(str(exc)) from exc
            raise
        return self._pass([torch.from_numpy(output.data.copy()) for output in request.output_tensors])

    def _compile(self, threads: int) -> Any:
        core = self._openvino.Core()
        if self.precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise InputError(
                "this processor has no bfloat16 instructions, so OpenVINO would compute in float32; "
                "use --precision float32, or an artifact that was fitted in it"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            # Several models, or processes, would share the pinned cores.
            "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        return core.compile_model(core.read_model(self.graph), "CPU", settings).create_infer_request()
