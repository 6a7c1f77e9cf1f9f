"""`plumbline geometry`: networks and natural images → how straight and how short the paths through them are."""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attacks import parse_epsilon
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.loading.references import LoadedNetwork, load_network, preset_size
from service.geometry.measuring import Measured, measure
from service.geometry.overview import as_table
from service.geometry.settings import Disturbance, GeometrySettings
from service.geometry.writing import write_geometry_report
from service.inputs import label, network_name, say, with_labels_of
from service.provenance import provenance

__all__ = ["measure_all", "run"]


def run(options: Namespace) -> None:
    """Measure as the command line says, write `options.out`, and print the table."""
    settings = GeometrySettings(
        disturbances=(*_disturbances("fgm", options.epsilon), *_disturbances("noise", options.noise)),
        transport_images=options.transport_images, seed=options.seed, device=options.device,
    )  # fmt: skip
    resize, crop = options.resize, options.crop
    if resize is None and crop is None:
        resize, crop = _common_size(options.network)
    request = DatasetRequest(root=options.data_root, download=options.download, resize=resize, crop=crop)
    data = load_dataset(options.dataset, request).limited(options.limit, options.seed)
    networks = [
        load_network(
            reference, mean=options.mean, std=options.std, num_classes=len(data.classes), image_shape=data.image_shape
        )
        for reference in options.network
    ]
    measured, facts = measure_all(networks, data, settings)
    told = write_geometry_report(options.out, measured, facts)
    print(as_table(told["networks"]))
    for each in told["networks"]:
        for remark in each["remarks"]:
            print(f"{each['name']}: {remark}")
    print(f"report in {options.out / 'report.html'}")


def measure_all(
    networks: Sequence[LoadedNetwork], data: ImageDataset, settings: GeometrySettings, *, progress: bool = True
) -> tuple[list[Measured], dict[str, Any]]:
    """Each network measured on the same images, and the facts that go with the figures, as JSON values.

    Raises:
        InputError: fewer than two images, or labels that do not fit a network.
        NetworkError, AttackError: see `service.geometry.measuring.measure`.
    """
    # What would only be found after the first network's measuring is looked at before.
    labelled = [with_labels_of(data, each.classes, each.spec.num_classes, label(each.reference)) for each in networks]
    for each in networks:
        if not each.trained:
            say(f"warning: {label(each.reference)} was given no weights; its paths are those of a random network")
    measured = [
        measure(name, each.network, images, settings, progress=progress)
        for name, each, images in zip(_names(networks), networks, labelled, strict=True)
    ]
    facts = {
        "dataset": {
            "name": label(data.name), "sha256": data.fingerprint(), "images": len(data),
            "image_shape": list(data.image_shape), "classes": len(data.classes),
        },
        "settings": {
            "epsilon": [each.size for each in settings.disturbances if each.kind == "fgm"],
            "noise": [each.size for each in settings.disturbances if each.kind == "noise"],
            "transport_images": min(settings.transport_images, len(data)), "seed": settings.seed,
            "device": settings.device,
        },
        "trained": {
            each.name: {key: loaded.provenance.get(key) for key in ("dataset_sha256", "objective", "test_accuracy")}
            for each, loaded in zip(measured, networks, strict=True)
        },
        "provenance": provenance(),
    }  # fmt: skip
    return measured, facts


def _common_size(references: Sequence[str]) -> tuple[int | None, int | None]:
    """What `preset_size` says of all of them.

    Raises:
        InputError: it says several things.
    """
    sizes = {reference: preset_size(reference) for reference in references}
    if len(set(sizes.values())) > 1:
        told = "; ".join(
            f"{label(reference)}: "
            + ("the data set's own" if size == (None, None) else "--resize {} --crop {}".format(*size))
            for reference, size in sizes.items()
        )
        raise InputError(
            f"expected networks for images of one size, got {told}; give --resize and --crop, or a report to each"
        )
    return next(iter(sizes.values()))


def _names(networks: Sequence[LoadedNetwork]) -> list[str]:
    """What each network is called; numbered where several would be called the same."""
    names = [network_name(each) for each in networks]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if names.count(name) > 1 else name)
    return result


def _disturbances(kind: Any, text: str) -> list[Disturbance]:
    if text == "none":
        return []
    try:
        return [Disturbance(kind, parse_epsilon(part.strip())) for part in text.split(",")]
    except InputError as exc:
        option = "--epsilon" if kind == "fgm" else "--noise"
        raise InputError(f"expected sizes with commas, or none, for {option}, got {text!r}: {exc}") from exc
