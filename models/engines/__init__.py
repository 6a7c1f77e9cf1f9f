"""Engines run a network for its logits and statistics: in torch, ONNX Runtime or OpenVINO."""

from models.engines.base import PRECISIONS, Engine, EngineSource, Precision, build_engine, engine_info
from models.engines.exporting import export_graph
from models.engines.graph import check_graph

__all__ = [
    "PRECISIONS",
    "Engine",
    "EngineSource",
    "Precision",
    "build_engine",
    "check_graph",
    "engine_info",
    "export_graph",
]
