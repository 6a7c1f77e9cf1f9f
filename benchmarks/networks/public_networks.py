"""Public networks whose constructors fix the size of images, for images of 64×64 pixels, as a user's file."""

import timm
from torch import nn
from torchvision.models import vision_transformer

__all__ = ["convit_tiny", "mixer_s16", "mobilevit_xxs", "poolformer_s12", "vit_b_16", "vit_tiny"]

SIZE = 64


def vit_b_16() -> nn.Module:
    """Torchvision's vision transformer."""
    network = vision_transformer.vit_b_16(image_size=SIZE)
    nn.init.normal_(network.heads[-1].weight, std=0.02)  # zero at first, which hides every fault
    return network


def vit_tiny() -> nn.Module:
    """A vision transformer of timm."""
    return timm.create_model("vit_tiny_patch16_224", img_size=SIZE)


def mixer_s16() -> nn.Module:
    """MLP-Mixer of timm."""
    network = timm.create_model("mixer_s16_224", img_size=SIZE)
    nn.init.normal_(network.head.weight, std=0.02)  # zero at first, which hides every fault
    return network


def convit_tiny() -> nn.Module:
    """A vision transformer with gated positional attention, of timm."""
    return timm.create_model("convit_tiny", img_size=SIZE)


def poolformer_s12() -> nn.Module:
    """Pooling in place of attention, of timm."""
    return timm.create_model("poolformer_s12")


def mobilevit_xxs() -> nn.Module:
    """Convolutions and attention, of timm."""
    return timm.create_model("mobilevit_xxs")
