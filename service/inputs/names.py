"""Names of networks and data sets as results state them."""

import re
from pathlib import Path

from models.files import readable
from models.loading import LoadedNetwork

__all__ = ["OUTLIER_PREFIX", "label", "network_name", "plain_name"]

OUTLIER_PREFIX = "ood:"  # prefix of the names of outlier sets


def label(reference: str) -> str:
    """The reference without folders of this machine: a path is cut down to its last part; see also `readable`."""
    given, reference = reference, readable(reference)
    head, separator, rest = reference.partition(":")
    if separator and (head in ("npz", "images") or (head == "hf" and Path(rest).is_dir())):
        return f"{head}:{Path(rest).name}"
    if head.endswith(".py") or (not separator and Path(given).is_dir()):
        return Path(head).name + (f":{rest.partition(':')[0]}" if rest else "")
    return reference if "/" not in rest or head == "hf" else f"{head}:{rest.partition(':')[0]}:{Path(rest).name}"


def network_name(loaded: LoadedNetwork) -> str:
    """The network's name and its source, such as "resnet20 (pretrained:cifar10-resnet20)"."""
    reference = label(loaded.reference)
    return reference if loaded.spec.name in reference else f"{loaded.spec.name} ({reference})"


def plain_name(name: str) -> str:
    """Letters and digits of a data set's name alone: "CIFAR-10" and "npz:…/cifar10-test.npz" both give "cifar10".

    >>> plain_name("ood:Tiny-ImageNet"), plain_name("npz:data/cifar100-test.npz"), plain_name("cifar10")
    ('tinyimagenet', 'cifar100', 'cifar10')
    """
    name = name.removeprefix(OUTLIER_PREFIX)
    name = name.removeprefix("npz:").replace("\\", "/").rpartition("/")[2].removesuffix(".npz")
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"(test|train)$", "", plain)
