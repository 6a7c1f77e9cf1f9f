"""Image classifiers of the package transformers, from their configuration, without code of their authors.

The package is optional. A folder has ``config.json``, ``preprocessor_config.json`` and safetensors, as
``save_pretrained`` writes them. Configurations are plain values with bounded sizes; remote code is never used.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import InputError, NetworkError
from models.extras import import_optional

__all__ = ["ClassifierFolder", "build_classifier", "check_configuration", "read_classifier"]

_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
# What is not needed to build a network, or would read other files.
_DROPPED = frozenset(
    {
        *("_name_or_path", "_commit_hash", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
        *("id2label", "label2id", "num_labels", "quantization_config", "custom_pipelines"),
    }
)
_MAX_BYTES = 64 * 2**10
_MAX_DEPTH = 6
_MAX_WHOLE = 1_000_000
_MAX_LAYERS = 1_000
_MAX_WEIGHTS = 2**31  # 8 GiB as float32


@dataclass(frozen=True)
class ClassifierFolder:
    """What a folder states about a classifier.

    Args:
        folder: the folder.
        configuration: of the network, as `build_classifier` takes it.
        classes: names of the classes; None if they are numbered only.
        num_classes: K.
        image_shape: (3, H, W) in pixels.
        resize: pixels of the shorter side before the central crop to the image's shape.
        mean, std: normalisation per channel, in units of pixels in [0, 1]; None if the folder does not state it.
    """

    folder: Path
    configuration: dict[str, Any]
    classes: tuple[str, ...] | None
    num_classes: int
    image_shape: tuple[int, int, int]
    resize: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def load(self) -> nn.Module:
        """The network with its weights, as a module from normalised images to a structure with logits.

        Raises:
            NetworkError: the weights are missing, damaged, or of another network.
            MissingExtraError: transformers is not installed.
        """
        transformers = import_optional("transformers")
        config = _configuration(self.configuration, self.num_classes)
        try:
            network, report = transformers.AutoModelForImageClassification.from_pretrained(
                self.folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
        except Exception as exc:  # transformers raises many kinds
            raise NetworkError(
                f"{self.folder}: the classifier cannot be loaded: {exc}; write the folder again with "
                "network.save_pretrained(FOLDER)"
            ) from exc
        if absent := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
            raise NetworkError(
                f"{self.folder}: the weights lack {len(absent)} tensors of the network ({', '.join(absent[:4])}): they "
                "are of another network, or its head was not trained; train it and save it again"
            )
        classifier: nn.Module = network
        return classifier


def read_classifier(name: str) -> ClassifierFolder:
    """What a folder, or a repository of the Hugging Face Hub, states about its classifier.

    Args:
        name: an existing folder, or OWNER/NAME, whose files are downloaded unless they are in the cache.

    Raises:
        InputError: a file is missing or malformed, or the classifier cannot be used.
        NetworkError: the download fails.
    """
    folder = Path(name) if Path(name).is_dir() else _downloaded(name)
    config = _json(folder / "config.json")
    if config is not None and isinstance(config.get("architecture"), str):
        raise InputError(
            f"{folder}: the network is one of timm; give timm:{config['architecture']}:{folder / 'model.safetensors'}"
        )
    if config is None or not isinstance(config.get("model_type"), str):
        raise InputError(
            f"{folder}: expected config.json with a model_type, as network.save_pretrained(FOLDER) writes it"
        )
    configuration = {key: value for key, value in config.items() if key not in _DROPPED}
    check_configuration(configuration)
    labels = config.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(index) for index in range(len(labels))} or len(labels) < 2:
        raise InputError(f"{folder / 'config.json'}: expected id2label with two or more classes, numbered from 0")
    classes = tuple(str(labels[str(index)]) for index in range(len(labels)))
    numbered = all(re.fullmatch(r"LABEL_\d+", text) for text in classes)
    prepared = _json(folder / "preprocessor_config.json") or {}
    if prepared.get("do_flip_channel_order"):
        raise InputError(
            f"{folder}: the classifier takes channels in the order BGR; write a function that returns it after a flip "
            "of the channels, and pass PATH.py:CALLABLE"
        )
    side, resize = _sizes(prepared, config)
    mean, std = _normalisation(prepared)
    return ClassifierFolder(
        folder, configuration, None if numbered else classes, len(classes), (3, *side), resize, mean, std
    )


def check_configuration(configuration: Any) -> None:
    """Raise InputError unless `configuration` is one that `read_classifier` returns: plain, bounded, without code."""
    if not isinstance(configuration, dict) or not isinstance(configuration.get("model_type"), str):
        raise InputError(f"expected the configuration of a classifier with a model_type, got {configuration!r:.200}")
    _check_value(configuration, "configuration", _MAX_DEPTH)
    if (size := len(json.dumps(configuration))) > _MAX_BYTES:
        raise InputError(f"expected a configuration of at most {_MAX_BYTES} bytes, got {size}")


def build_classifier(configuration: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The network of a checked configuration, untrained; takes normalised images and returns logits.

    Raises:
        InputError: transformers has no such image classifier, or the network would be too large.
        MissingExtraError: transformers is not installed.
    """
    make = import_optional("transformers").AutoModelForImageClassification.from_config
    config = _configuration(configuration, num_classes)
    try:
        with torch.device("meta"):  # without memory for the weights
            weights = sum(weight.numel() for weight in make(config, trust_remote_code=False).parameters())
        if weights > _MAX_WEIGHTS:
            raise InputError(f"expected a network of at most {_MAX_WEIGHTS} weights, got {weights}")
        network: nn.Module = make(config, trust_remote_code=False, dtype=torch.float32)
    except InputError:
        raise
    except Exception as exc:  # transformers raises many kinds
        raise InputError(f"transformers cannot build a classifier from this configuration: {exc}") from exc
    return network


def _configuration(fields: Mapping[str, Any], num_classes: int) -> Any:
    """The configuration as transformers' object.

    Raises:
        InputError: it is not one of an image classifier.
    """
    transformers = import_optional("transformers")
    kind = fields["model_type"]
    try:
        config = transformers.AutoConfig.for_model(**fields, num_labels=num_classes)
        known = type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    except Exception as exc:  # transformers raises many kinds
        raise InputError(f"transformers cannot read the configuration of a {kind!r:.100} network: {exc}") from exc
    if not known or kind == "timm_wrapper":
        raise InputError(f"expected an image classifier of transformers, got a network of the type {kind!r}")
    return config


def _check_value(value: Any, name: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float):
        largest = _MAX_LAYERS if re.search("layers|depth", name) else _MAX_WHOLE
        if not math.isfinite(value) or abs(value) > largest:
            raise InputError(f"expected {name} of at most {largest}, got {value!r:.50}")
    elif isinstance(value, str):
        if len(value) > 1000:
            raise InputError(f"expected a short text as {name}, got {len(value)} characters")
    elif isinstance(value, list | dict) and depth:
        if isinstance(value, dict) and (bad := [key for key in value if not isinstance(key, str) or key in _DROPPED]):
            raise InputError(f"expected no {bad[0]!r:.100} in {name}")
        if isinstance(value, dict) and any("backbone" in key and value[key] for key in value):
            raise InputError(f"expected a classifier without a separate backbone, got {sorted(value)!r:.200}")
        for key, item in value.items() if isinstance(value, dict) else ((name, item) for item in value):
            _check_value(item, key, depth - 1)
    else:
        raise InputError(f"expected plain values in the configuration, got {type(value).__name__} as {name}")


def _downloaded(name: str) -> Path:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise InputError(f"expected hf:FOLDER with an existing folder, or hf:OWNER/NAME, got {'hf:' + name!r}")
    import_optional("transformers")
    try:
        return Path(import_optional("huggingface_hub").snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as exc:  # libraries that download raise many kinds
        raise NetworkError(
            f"hf:{name}: the files could not be downloaded ({type(exc).__name__}); pass a folder that has them"
        ) from exc


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as exc:
        raise InputError(f"{path}: the file is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _sizes(prepared: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[tuple[int, int], int]:
    """((H, W) of the network's images, the shorter side before the crop)."""
    size, crop = prepared.get("size", config.get("image_size", 224)), prepared.get("crop_size")
    resized = _pixels(size)
    if crop is not None and prepared.get("do_center_crop", True):
        return _pixels(crop), min(resized)
    share = prepared.get("crop_pct")
    if isinstance(share, float) and 0.1 < share <= 1 and min(resized) < 384:  # as transformers does for ConvNeXT
        return resized, math.floor(min(resized) / share)
    return resized, min(resized)


def _pixels(size: Any) -> tuple[int, int]:
    """(H, W) of a size in one of transformers' forms."""
    if isinstance(size, dict):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= 4096 for side in sides):
        raise InputError(f"expected the size of images in pixels in preprocessor_config.json, got {size!r:.200}")
    return int(sides[0]), int(sides[1])


def _normalisation(prepared: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(mean, std) for pixels in [0, 1]; (None, None) if nothing is stated."""
    if not prepared:
        return None, None
    mean: Any = [0.0] * 3
    std: Any = [1.0] * 3
    if prepared.get("do_normalize", True):
        mean, std = prepared.get("image_mean"), prepared.get("image_std")
        if not all(
            isinstance(v, list) and len(v) == 3 and all(isinstance(n, int | float) for n in v) for v in (mean, std)
        ):
            raise InputError("expected image_mean and image_std of three channels in preprocessor_config.json")
    scale = 255 * float(prepared.get("rescale_factor", 1 / 255)) if prepared.get("do_rescale", True) else 255.0
    offset = 1.0 if prepared.get("rescale_offset") else 0.0
    return tuple((m + offset) / scale for m in mean), tuple(s / scale for s in std)
