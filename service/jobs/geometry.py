"""`plumbline geometry`: networks and natural images → the geometry of the paths through them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attacks import parse_epsilon
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.loading import LoadedNetwork, load_network, preset_size
from service.geometry.networks.measuring import Measured, measure
from service.geometry.networks.overview import as_table
from service.geometry.networks.page import write_geometry_report
from service.geometry.networks.settings import Disturbance, GeometrySettings
from service.inputs import label, network_name, say, with_labels_of
from service.provenance import provenance
from service.requests.geometry import GeometryRequest

__all__ = ["GeometryResult", "measure_all", "write_geometry"]


@dataclass(frozen=True)
class GeometryResult:
    """A written report.

    Args:
        report: content of report.json.
        page: path of report.html.
    """

    report: dict[str, Any]
    page: Path

    def summary(self) -> str:
        """The overview and the remarks as text."""
        networks = self.report["networks"]
        remarks = [f"{each['name']}: {remark}" for each in networks for remark in each["remarks"]]
        return "\n".join([as_table(networks), *remarks, f"report in {self.page}"])


def write_geometry(request: GeometryRequest, *, progress: bool = True) -> GeometryResult:
    """Measure the networks and write the report.

    Raises:
        InputError: an option out of its range, unsuitable images or labels, or a folder that is not writable.
        NetworkError, AttackError: see `service.geometry.networks.measuring.measure`.
    """
    settings = GeometrySettings(
        disturbances=(*_disturbances("fgm", request.epsilon), *_disturbances("noise", request.noise)),
        transport_images=request.transport_images, seed=request.seed, device=request.device, blocks=request.blocks,
    )  # fmt: skip
    resize, crop = request.resize, request.crop
    if resize is None and crop is None:
        resize, crop = _common_size(request.networks)
    source = DatasetRequest(
        root=request.data_root, download=request.download, resize=resize, crop=crop, max_pixels=request.max_pixels
    )
    data = load_dataset(request.dataset, source).limited(request.limit, request.seed)
    networks = [
        load_network(
            reference, mean=request.mean, std=request.std, num_classes=len(data.classes), image_shape=data.image_shape
        )
        for reference in request.networks
    ]
    measured, context = measure_all(networks, data, settings, progress=progress)
    return GeometryResult(write_geometry_report(request.out, measured, context), request.out / "report.html")


def measure_all(
    networks: Sequence[LoadedNetwork], data: ImageDataset, settings: GeometrySettings, *, progress: bool = True
) -> tuple[list[Measured], dict[str, Any]]:
    """Measure each network on the same images; also data set, settings and provenance, as JSON values.

    Args:
        networks: loaded.
        data: natural images.
        settings: what is measured.
        progress: show a bar per network.

    Raises:
        InputError: fewer than two images, or labels that do not fit a network.
        NetworkError, AttackError: see `service.geometry.networks.measuring.measure`.
    """
    # Validate all labels before the first network is measured, which can take long.
    labelled = [with_labels_of(data, each.classes, each.spec.num_classes, label(each.reference)) for each in networks]
    for each in networks:
        if not each.trained:
            say(f"warning: {label(each.reference)} has no trained weights; its paths are those of a random network")
    measured = [
        measure(name, each.network, images, settings, progress=progress)
        for name, each, images in zip(_names(networks), networks, labelled, strict=True)
    ]
    context = {
        "dataset": {
            "name": label(data.name), "sha256": data.fingerprint(), "images": len(data),
            "image_shape": list(data.image_shape), "classes": len(data.classes),
        },
        "settings": {
            "epsilon": [each.size for each in settings.disturbances if each.kind == "fgm"],
            "noise": [each.size for each in settings.disturbances if each.kind == "noise"],
            "transport_images": min(settings.transport_images, len(data)), "seed": settings.seed,
            "device": settings.device, "blocks": settings.blocks,
        },
        "trained": {
            each.name: {key: loaded.provenance.get(key) for key in ("dataset_sha256", "objective", "test_accuracy")}
            for each, loaded in zip(measured, networks, strict=True)
        },
        "provenance": provenance(),
    }  # fmt: skip
    return measured, context


def _common_size(references: Sequence[str]) -> tuple[int | None, int | None]:
    """The `preset_size` that all networks share.

    Raises:
        InputError: the networks have different sizes.
    """
    sizes = {reference: preset_size(reference) for reference in references}
    if len(set(sizes.values())) > 1:
        listed = "; ".join(
            f"{label(reference)}: "
            + ("the data set's own" if size == (None, None) else "--resize {} --crop {}".format(*size))
            for reference, size in sizes.items()
        )
        raise InputError(
            f"expected networks for images of one size, got {listed}; give --resize and --crop, or write a report each"
        )
    return next(iter(sizes.values()))


def _names(networks: Sequence[LoadedNetwork]) -> list[str]:
    """The name of each network; equal names are numbered."""
    names = [network_name(each) for each in networks]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if names.count(name) > 1 else name)
    return result


def _disturbances(kind: Literal["fgm", "noise"], text: str) -> list[Disturbance]:
    if text == "none":
        return []
    try:
        return [Disturbance(kind, parse_epsilon(part.strip())) for part in text.split(",")]
    except InputError as exc:
        option = "--epsilon" if kind == "fgm" else "--noise"
        raise InputError(f"expected sizes with commas, or none, for {option}, got {text!r}: {exc}") from exc
