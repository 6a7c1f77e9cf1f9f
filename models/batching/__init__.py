"""Batch sizes that follow memory: one measurement of a network, and a budget."""

from models.batching.alive import AliveMemory
from models.batching.batches import batch_size, is_out_of_memory, run_batches
from models.batching.budget import memory_budget, memory_limited, memory_share, parse_memory
from models.batching.cost import NetworkCost, network_cost
from models.batching.probe import bytes_per_image, gradient_step

__all__ = [
    "AliveMemory",
    "NetworkCost",
    "batch_size",
    "bytes_per_image",
    "gradient_step",
    "is_out_of_memory",
    "memory_budget",
    "memory_limited",
    "memory_share",
    "network_cost",
    "parse_memory",
    "run_batches",
]
