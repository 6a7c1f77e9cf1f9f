"""Find the residual branches of a network, record them, and compute their statistics."""

from models.residuals.discovery.branches import Branch, Discovery
from models.residuals.discovery.discovery import discover
from models.residuals.hooks import changing_input, evaluation_mode, module_hooks
from models.residuals.pooling import pooled
from models.residuals.recording.recorder import record_path, record_residues
from models.residuals.recording.recording import Recording
from models.residuals.rewriting.with_statistics import PooledPass, WithPooled, WithStatistics
from models.residuals.statistics import BlockTensor, StatisticsSpec, finish, fixed_directions, reduce_residue

__all__ = [
    "BlockTensor",
    "Branch",
    "Discovery",
    "PooledPass",
    "Recording",
    "StatisticsSpec",
    "WithPooled",
    "WithStatistics",
    "changing_input",
    "discover",
    "evaluation_mode",
    "finish",
    "fixed_directions",
    "module_hooks",
    "pooled",
    "record_path",
    "record_residues",
    "reduce_residue",
]
