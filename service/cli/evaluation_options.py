"""The words of `plumbline evaluate` as settings, data sets and files."""

from argparse import Namespace
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import ImageError, InputError
from service.adaptive.budgets import Budgets
from service.evaluation.settings import EvaluationSettings
from service.inputs import label
from service.report.beside_paper import PUBLISHED

__all__ = ["images_of_size", "published", "request_of", "settings_of"]


def settings_of(options: Namespace) -> EvaluationSettings:
    """The settings that the command line states."""

    def listed(text: str | None) -> tuple[str, ...] | None:
        return None if text is None else tuple(name.strip() for name in text.split(","))

    limits = {}
    for pair in options.attack_limit:
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdigit():
            raise InputError(f"expected --attack-limit NAME=N, such as hop_skip_jump=200, got {pair!r}")
        limits[name] = int(number)
    images = 200 if options.adaptive_images is None else options.adaptive_images
    return EvaluationSettings(
        protocol=options.protocol, runs=options.runs, detectors=listed(options.detectors),
        fit_on=listed(options.fit_on), test_on=listed(options.test_on), budgets=listed(options.budgets) or (),
        epsilon=options.epsilon, eight_bit=options.eight_bit, noisy=options.noisy,
        fit_ood=tuple(label(each) for each in options.fit_ood), reference_limit=options.reference_limit,
        attack_limit=limits, split=options.split, fpr=options.fpr, adaptive=listed(options.adaptive) or (),
        adaptive_images=images, adaptive_budgets=_adaptive_budgets(options), seed=options.seed,
        workers=options.workers, cache=options.cache, device=options.device,
    )  # fmt: skip


def _adaptive_budgets(options: Namespace) -> Budgets | None:
    """What adaptive attacks may spend; None where the command line says nothing about it.

    Raises:
        InputError: less than they can work with, or a budget for attacks that are not asked for.
    """
    given = {"queries": options.adaptive_queries, "descent_steps": options.adaptive_steps}
    given = {name: value for name, value in given.items() if value is not None}
    if (given or options.adaptive_images is not None) and options.adaptive is None:
        raise InputError(
            "expected --adaptive with --adaptive-images, --adaptive-queries or --adaptive-steps, got none; name "
            "adaptive attacks, such as --adaptive black_box"
        )
    return Budgets(**given) if given else None


def images_of_size(reference: str, shape: tuple[int, int, int], request: DatasetRequest) -> ImageDataset:
    """The data set in the size of the network's images: as the request says, else scaled and cropped to that size.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        data = load_dataset(reference, request)
        if data.image_shape == shape:
            return data
    except ImageError:
        pass  # images of different sizes, which only a common one makes a set of
    height, width = shape[1:]
    if height != width:
        raise InputError(
            f"expected images of {width}×{height} pixels from {reference}, got others; only squares are made"
        )
    return load_dataset(reference, replace(request, resize=height, crop=height))


def request_of(options: Namespace, resize: int | None, crop: int | None) -> DatasetRequest:
    """What the options ask of a data set's plug-in, in this preprocessing."""
    return DatasetRequest(root=options.data_root, download=options.download, resize=resize, crop=crop)


def published(given: str | None) -> Traversable | None:
    """The file of published figures: none, the one of the thesis, or a person's own."""
    if given is None:
        return None
    if not given:
        return PUBLISHED
    path = Path(given)
    if not path.is_file():
        raise InputError(f"expected a CSV file of published figures for --beside-paper, got {path}")
    return path
