"""Labels of a data set as indices of a network's logits."""

from dataclasses import replace

import numpy as np

from models.datasets.base import ImageDataset
from models.errors import InputError

__all__ = ["with_labels_of"]


def with_labels_of(data: ImageDataset, classes: tuple[str, ...] | None, num_classes: int, network: str) -> ImageDataset:
    """The data set with labels that index the network's logits.

    Labels are matched by name where the network's class names include all of the data set's. Otherwise the data set
    must have one class per logit, in the same order.

    Args:
        data: images with labels that index the data set's own classes.
        classes: the network's class names, in the order of its logits; None if unknown.
        num_classes: the number of logits.
        network: the network's name in messages.

    Raises:
        InputError: neither holds, or only some of the names match.
    """
    if classes is not None and set(data.classes) <= set(classes):
        places = np.array([classes.index(name) for name in data.classes])
        return replace(data, labels=places[data.labels], classes=classes)
    if classes is not None and (shared := set(data.classes) & set(classes)):
        unknown = ", ".join(sorted(set(data.classes) - shared)[:5])
        raise InputError(
            f"expected classes that {network} knows, got {unknown} beside {len(shared)} that it does know; by place, "
            "labels would be mixed up: name the classes as the network does"
        )
    if len(data.classes) != num_classes:
        raise InputError(
            f"expected a data set of {num_classes} classes for {network}, got {data.name} with {len(data.classes)}; "
            "choose the data set that the network was trained on, or name the classes as the network does"
        )
    return replace(data, classes=classes or data.classes)
