"""Labels of a data set as indices of a network's logits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from models.datasets.base import ImageDataset
from models.datasets.contents import distinct_names
from models.errors import InputError
from models.progress import say
from service.inputs.names import label

__all__ = ["with_labels_of"]

_IMAGENET_CLASSES = 1000


def with_labels_of(data: ImageDataset, classes: tuple[str, ...] | None, num_classes: int, network: str) -> ImageDataset:
    """The data set with labels that index the network's logits, and one class name per logit.

    The data set may have fewer classes than the network has logits. Its classes are matched by the first rule that
    holds for all of them:

    1. by name, where the network's class names are known: equal names, or else names that are equal without regard to
       case, underscores and further synonyms after a comma; for 1,000 logits also WordNet numbers such as n01440764;
    2. by index, if the names are whole numbers under the number of logits, as for labels without names;
    3. by order, if there are as many classes as logits.

    Rules other than equal names are reported.

    Args:
        data: images with labels that index the data set's own classes.
        classes: the network's class names, in the order of its logits; None if unknown.
        num_classes: the number of logits.
        network: the network's name in messages.

    Raises:
        InputError: no rule holds, or only some of the names match.
    """
    known = None if classes is None else distinct_names(classes)
    rule, places = _matched(data, known, num_classes, network)
    names = known or (data.classes if rule == "order" else tuple(map(str, range(num_classes))))
    if rule != "name" or len(data.classes) < num_classes:
        unnamed = all(name == str(index) for index, name in enumerate(data.classes))
        if not (unnamed and len(data.classes) == num_classes):
            say(
                f"{label(data.name)}: {len(data.classes)} classes are matched with the {num_classes} outputs of "
                f"{network} by {rule}, from {data.classes[0]} = output {places[0]} to {data.classes[-1]} = output "
                f"{places[-1]}"
            )
    return replace(data, labels=np.array(places, dtype=np.int64)[data.labels], classes=names)


def _matched(
    data: ImageDataset, known: tuple[str, ...] | None, num_classes: int, network: str
) -> tuple[str, Sequence[int]]:
    """The rule, and the index of the logit of each class of the data set."""
    if known is not None and (places := _by_name(data.classes, known)):
        return "name", places
    if num_classes == _IMAGENET_CLASSES and (places := _by_name(data.classes, _wordnet_numbers())):
        return "WordNet number", places
    if known is not None and (shared := set(data.classes) & set(known)):
        unknown = ", ".join(sorted(set(data.classes) - shared)[:5])
        raise InputError(
            f"expected classes that {network} knows, got {unknown} beside {len(shared)} that it does know; by place, "
            "labels would be mixed up: name the classes as the network does"
        )
    indices = _indices(data.classes)
    if len(data.classes) < num_classes and indices and max(indices) < num_classes:
        return "index", indices
    if len(data.classes) == num_classes:
        return "order", range(num_classes)
    raise InputError(
        f"expected a data set of {num_classes} classes for {network}, got {data.name} with {len(data.classes)}; choose "
        "the data set that the network was trained on, or name the classes as the network does, or by the index of "
        f"their output, from 0 to {num_classes - 1}"
    )


def _by_name(names: Sequence[str], known: Sequence[str]) -> list[int] | None:
    """The place of each name among the known ones; None unless all are among them, each at another place."""
    for spellings in (_exact, _spellings):
        places: dict[str, set[int]] = {}
        for place, name in enumerate(known):
            for spelling in spellings(name):
                places.setdefault(spelling, set()).add(place)
        found = [set.union(*(places.get(spelling, set()) for spelling in spellings(name))) for name in names]
        if all(len(each) == 1 for each in found) and len(set.union(*found)) == len(names):
            return [next(iter(each)) for each in found]
    return None


def _exact(name: str) -> Iterator[str]:
    yield name


def _spellings(name: str) -> Iterator[str]:
    """The name and its first synonym in lower case, with spaces for underscores."""
    plain = " ".join(name.replace("_", " ").casefold().split())
    yield plain
    if "," in plain:
        yield plain.partition(",")[0]


def _indices(names: Sequence[str]) -> list[int] | None:
    """Distinct whole numbers that the names are; None if they are no such numbers."""
    if not all(name.isascii() and name.isdigit() for name in names):
        return None
    indices = [int(name) for name in names]
    return indices if len(set(indices)) == len(indices) else None


def _wordnet_numbers() -> tuple[str, ...]:
    """The WordNet numbers of the 1,000 classes of ImageNet, in the usual order; none without timm, which has a list."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo()
    return tuple(info.index_to_label_name(index) for index in range(_IMAGENET_CLASSES))
