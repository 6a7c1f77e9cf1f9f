"""Batch sizes from the memory per image, which is measured, and a memory budget."""

from models.batching.alive import AliveMemory
from models.batching.batches import fitting_batch, fitting_size, is_out_of_memory, run_batches
from models.batching.budget import memory_budget, memory_limit, memory_limited
from models.batching.cost import NetworkCost, network_cost
from models.batching.in_parts import InParts
from models.batching.probe import bytes_per_image, gradient_bytes, gradient_step

__all__ = [
    "AliveMemory",
    "InParts",
    "NetworkCost",
    "fitting_batch",
    "bytes_per_image",
    "fitting_size",
    "gradient_bytes",
    "gradient_step",
    "is_out_of_memory",
    "memory_budget",
    "memory_limit",
    "memory_limited",
    "network_cost",
    "run_batches",
]
