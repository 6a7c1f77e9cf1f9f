"""Find the residual branches of a network, record them, and compute their statistics."""

from models.residuals.discovery import Branch, Discovery, discover
from models.residuals.hooks import changing_input, evaluation_mode
from models.residuals.pooling import pooled
from models.residuals.recording import Recording, record_path, record_residues
from models.residuals.statistics import BlockTensor, StatisticsSpec, finish, fixed_directions, reduce_residue
from models.residuals.with_statistics import PooledPass, WithPooled, WithStatistics

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
    "pooled",
    "record_path",
    "record_residues",
    "reduce_residue",
]
