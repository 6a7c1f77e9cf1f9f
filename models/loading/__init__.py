"""Load networks from references and checkpoints."""

from models.loading.build import build_network
from models.loading.checkpoint import load_checkpoint, rounded_to_half, save_checkpoint
from models.loading.loaded import LoadedNetwork
from models.loading.references import PRETRAINED, load_network, preset_size
from models.loading.specification import NetworkSpec
from models.loading.state import load_weights
from models.loading.user_file import code_identity

__all__ = [
    "PRETRAINED",
    "LoadedNetwork",
    "NetworkSpec",
    "build_network",
    "code_identity",
    "load_checkpoint",
    "load_network",
    "load_weights",
    "preset_size",
    "rounded_to_half",
    "save_checkpoint",
]
