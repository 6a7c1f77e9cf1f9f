"""Public networks, some of them narrower, their branches, and the sums in their blocks, captured by separate hooks."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import starmap

import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from models.networks.resnet import resnet56

Seen = dict[str, Tensor]


@dataclass(frozen=True)
class PublicNetwork:
    """A network, its image size, and its expected number of branches."""

    build: Callable[[], nn.Module]
    size: int
    branches: int


CONVNEXT = ((16, 32, 3), (32, 64, 3), (64, 128, 9), (128, None, 3))

NETWORKS: dict[str, PublicNetwork] = {
    "ours_resnet56": PublicNetwork(resnet56, 16, 27),
    "resnet18": PublicNetwork(lambda: tv.resnet18(num_classes=10), 32, 8),
    "resnext50": PublicNetwork(
        lambda: tv.ResNet(tv.resnet.Bottleneck, [3, 4, 6, 3], num_classes=10, groups=8, width_per_group=4), 32, 16
    ),
    "vit_b_16": PublicNetwork(lambda: tv.VisionTransformer(32, 16, 12, 4, 64, 128, num_classes=10), 32, 24),
    "swin_t": PublicNetwork(
        lambda: tv.SwinTransformer([4, 4], 24, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], num_classes=10), 64, 24
    ),
    "convnext_tiny": PublicNetwork(lambda: tv.ConvNeXt(list(starmap(CNBlockConfig, CONVNEXT)), num_classes=10), 32, 18),
    "efficientnet_b0": PublicNetwork(lambda: tv.efficientnet_b0(num_classes=10), 32, 9),
    "mobilenet_v2": PublicNetwork(lambda: tv.mobilenet_v2(num_classes=10), 32, 10),
    "regnet_y_400mf": PublicNetwork(lambda: tv.regnet_y_400mf(num_classes=10), 32, 16),
    "timm_resnet18": PublicNetwork(lambda: timm.create_model("resnet18", num_classes=10), 32, 8),
    "timm_vit_tiny": PublicNetwork(
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), 32, 24
    ),
    "timm_convnext_atto": PublicNetwork(lambda: timm.create_model("convnext_atto", num_classes=10), 32, 12),
}


def vgg(widths: Sequence[int | str]) -> tv.VGG:
    """VGG of these widths, with batch normalisation and few units before its logits."""
    with torch.device("meta"):  # its own 128 million weights are not initialised
        network = tv.vgg11_bn(num_classes=10)
    network.features = tv.vgg.make_layers(list(widths), batch_norm=True)
    last = [width for width in widths if isinstance(width, int)][-1]
    network.classifier = nn.Sequential(
        *(nn.Linear(last * 49, 64), nn.ReLU(True), nn.Dropout()),
        *(nn.Linear(64, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10)),
    )
    return network.eval()


def _across(block: nn.Module, seen: Seen) -> list[tuple[Tensor, Tensor]]:
    return [(seen["in"], seen["out"])]


def _across_if_connected(block: nn.Module, seen: Seen) -> list[tuple[Tensor, Tensor]]:
    return _across(block, seen) if block.use_res_connect else []


def _two_halves(middle: str) -> Callable[[nn.Module, Seen], list[tuple[Tensor, Tensor]]]:
    def halves(block: nn.Module, seen: Seen) -> list[tuple[Tensor, Tensor]]:
        return [(seen["in"], seen[f"{middle}.in"]), (seen[f"{middle}.in"], seen["out"])]

    return halves


def _before(activation: str, shortcut: str) -> Callable[[nn.Module, Seen], list[tuple[Tensor, Tensor]]]:
    def summed(block: nn.Module, seen: Seen) -> list[tuple[Tensor, Tensor]]:
        return [(seen.get(f"{shortcut}.out", seen["in"]), seen[f"{activation}.in"])]

    return summed


# By class: the (skip, sum) pairs of one pass through the block.
_PAIRS: dict[tuple[str, str], Callable[[nn.Module, Seen], list[tuple[Tensor, Tensor]]]] = {
    ("models", "PreActivationBlock"): _across,
    ("torchvision", "BasicBlock"): _before("relu", "downsample"),
    ("torchvision", "Bottleneck"): _before("relu", "downsample"),
    ("torchvision", "EncoderBlock"): _two_halves("ln_2"),
    ("torchvision", "SwinTransformerBlock"): _two_halves("norm2"),
    ("torchvision", "CNBlock"): _across,
    ("torchvision", "MBConv"): _across_if_connected,
    ("torchvision", "InvertedResidual"): _across_if_connected,
    ("torchvision", "ResBottleneckBlock"): _before("activation", "proj"),
    ("timm", "BasicBlock"): _before("act2", "downsample"),
    ("timm", "Block"): _two_halves("norm2"),
    ("timm", "ConvNeXtBlock"): _across,
}


def skips_and_sums(network: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(skip, sum before any activation) of every residual block, in order, copied before anything overwrites them."""
    seen: dict[str, Seen] = defaultdict(dict)
    order: list[tuple[str, nn.Module]] = []
    handles = []
    for name, block in network.named_modules():
        if (type(block).__module__.split(".")[0], type(block).__name__) not in _PAIRS:
            continue
        order.append((name, block))
        for inner, module in [("", block), *block.named_children()]:
            prefix = f"{inner}." if inner else ""

            # The last pass through a module wins: the activation that comes after the sum, not those inside the branch.
            def before(_module: nn.Module, args: tuple[Tensor, ...], name: str = name, prefix: str = prefix) -> None:
                seen[name][f"{prefix}in"] = args[0].clone()

            def after(
                _module: nn.Module, _args: object, output: object, name: str = name, prefix: str = prefix
            ) -> None:
                if isinstance(output, Tensor):
                    seen[name][f"{prefix}out"] = output.clone()

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    pairs = []
    for name, block in order:
        kind = (type(block).__module__.split(".")[0], type(block).__name__)
        pairs += _PAIRS[kind](block, seen[name])
    return pairs
