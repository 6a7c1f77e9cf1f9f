"""`plumbline check`: a network, and images for it → the results of checks."""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.batching import NetworkCost, network_cost
from models.checking import (
    CheckResult,
    check_accuracy,
    check_branches,
    check_input,
    check_network,
    check_normalization,
    right_predictions,
)
from models.datasets.base import ImageDataset, load_dataset
from models.datasets.contents import contents_of
from models.errors import PlumblineError
from models.loading import LoadedNetwork, load_network
from service.console import text_table
from service.formatting import counted
from service.inputs import dataset_request, label, with_labels_of
from service.jsonable import as_json
from service.requests.inspection import CheckRequest

__all__ = ["CheckReport", "check"]

_LABELLED = 128  # images of which the accuracy is measured, under several normalisations
_NOISE = 6
_WIDTH = 90  # columns of a message


@dataclass(frozen=True)
class CheckReport:
    """The results of all checks, in the order in which they ran.

    Args:
        network: its reference.
        dataset: reference of the images; None: noise.
        results: one per check.
    """

    network: str
    dataset: str | None
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; a warning is not a failure."""
        return all(each.status != "fail" for each in self.results)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        checks = [
            {"name": each.name, "status": each.status, "message": each.message, "values": as_json(each.values)[0]}
            for each in self.results
        ]
        return {"network": self.network, "dataset": self.dataset, "passed": self.passed, "checks": checks}

    def as_table(self) -> str:
        """A table for people; long messages take several lines."""
        rows = []
        for each in self.results:
            first, *rest = textwrap.wrap(each.message, _WIDTH, break_long_words=False, break_on_hyphens=False)
            rows += [(each.name, each.status, first), *(("", "", line) for line in rest)]
        return text_table(("check", "result", "found"), rows, text_columns=3)


def check(request: CheckRequest) -> CheckReport:
    """Load what the request names, and run every check.

    Raises:
        InputError: a network or images that cannot be loaded.
        NetworkError: a network that cannot be built.
    """
    data = _images(request)
    loaded = _network(request, data)
    if data is None:
        generator = torch.Generator().manual_seed(request.seed)
        noise = torch.rand(_NOISE, *loaded.spec.image_shape, generator=generator).to(request.device)
        return CheckReport(label(request.network), None, tuple(_of_network(loaded, noise, request.device)))
    data = with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    some = data.limited(_LABELLED, request.seed)
    images = some.tensor().to(request.device)
    results = [
        *_of_network(loaded, images, request.device),
        *_caught("accuracy", lambda: _of_accuracy(loaded, images, some.labels)),
        _of_images(data),
    ]
    return CheckReport(label(request.network), label(data.name), tuple(results))


def _images(request: CheckRequest) -> ImageDataset | None:
    if request.dataset is None:
        return None
    data = load_dataset(request.dataset, dataset_request(request.images, request.network))
    return data.limited(request.images.limit, request.seed)


def _network(request: CheckRequest, data: ImageDataset | None) -> LoadedNetwork:
    given = request.normalization
    if data is None:
        shape = (3, *request.image_size) if request.image_size else None
        return load_network(request.network, mean=given.mean, std=given.std, image_shape=shape)
    return load_network(
        request.network, mean=given.mean, std=given.std, num_classes=len(data.classes), image_shape=data.image_shape
    )


def _of_network(loaded: LoadedNetwork, images: Tensor, device: str) -> Iterator[CheckResult]:
    network = loaded.network.to(device)
    yield check_input(network, loaded.notes)
    yield from _caught("logits", lambda: check_network(network, images))
    yield from _caught("residual branches", lambda: [check_branches(network, images[:2])])
    yield from _caught("cost", lambda: [_of_cost(network_cost(network, loaded.spec.image_shape, device=device))])


def _of_cost(cost: NetworkCost) -> CheckResult:
    message = (
        f"forward: {cost.forward_bytes / 1e6:.3g} MB and {1000 * cost.forward_seconds:.3g} ms per image, "
        f"{counted(cost.forward_batch, 'image')} per batch"
    )
    if cost.gradient_bytes is None or cost.gradient_seconds is None or cost.gradient_batch is None:
        message += "; the logits have no gradient with respect to the pixels, so gradient attacks cannot be used"
        return CheckResult("cost", "warning", message, asdict(cost))
    message += (
        f"; with gradient: {cost.gradient_bytes / 1e6:.3g} MB and {1000 * cost.gradient_seconds:.3g} ms, "
        f"{counted(cost.gradient_batch, 'image')} per batch"
    )
    return CheckResult("cost", "pass", message, asdict(cost))


def _of_accuracy(loaded: LoadedNetwork, images: Tensor, labels: NDArray[np.int64]) -> list[CheckResult]:
    right = right_predictions(loaded.network, images, labels)
    accuracy = check_accuracy(right, labels, trained=loaded.trained)
    return [accuracy, *([check_normalization(loaded.network, images, labels, right)] if loaded.trained else [])]


def _of_images(data: ImageDataset) -> CheckResult:
    """Numbers of images, of copies, and of images per class."""
    contents = contents_of(data)
    present = [count for count in contents.classes.values() if count]
    empty = len(contents.classes) - len(present)
    values = {**asdict(contents), "empty_classes": empty}
    each = f"{min(present)}" if min(present) == max(present) else f"{min(present)} to {max(present)}"
    message = f"{counted(len(data), 'image')} of {counted(len(present), 'class', 'classes')}, {each} per class"
    if empty:
        message += f"; {empty} of the network's {len(contents.classes)} classes have no image"
    if contents.copies:
        message += f"; {counted(contents.copies, 'copy', 'copies')} of others, which `fit` leaves out"
    if contents.contradictory:
        message += f"; {counted(contents.contradictory, 'image')} with copies that have another label"
    return CheckResult("images", "warning" if contents.copies or empty else "pass", message, values)


def _caught(name: str, run: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    """The results, or a failure with the message of the error."""
    try:
        return run()
    except PlumblineError as exc:
        return [CheckResult(name, "fail", str(exc))]
