"""The companion: a second network of the same classes, for detectors that compare a network with one."""

import time

import torch

from attacks.common.digests import network_digest
from detector.base.detector import Detector
from models.errors import InputError
from models.features import needs_of
from models.loading import LoadedNetwork, load_network
from models.normalization import Normalized
from service.inputs.names import label, network_name

__all__ = ["companion_note", "load_companion", "needs_companion"]

_BATCH, _REPEATS = 8, 3


def needs_companion(detector: Detector) -> bool:
    """Whether the detector compares the network with a companion."""
    return bool(needs_of(detector.feature_requests()).companion)


def load_companion(reference: str, loaded: LoadedNetwork) -> LoadedNetwork:
    """The companion of a network, normalised as the network unless it states its own normalisation.

    Args:
        reference: of the companion, as `load_network` takes it.
        loaded: the network.

    Raises:
        InputError: other classes than the network's, or the network itself.
        UnknownNameError, NetworkError: as `load_network`.
    """
    spec = loaded.spec
    companion = load_network(
        reference, defaults=(spec.mean, spec.std), num_classes=spec.num_classes, image_shape=spec.image_shape
    )
    name = label(reference)
    if companion.spec.num_classes != spec.num_classes:
        raise InputError(
            f"expected a companion of {spec.num_classes} classes, as the network, got {name} with "
            f"{companion.spec.num_classes}; give one of the same classes"
        )
    if companion.classes is not None and loaded.classes is not None and companion.classes != tuple(loaded.classes):
        raise InputError(f"the companion {name} has other classes than the network, or another order; give another one")
    if network_digest(companion.network) == network_digest(loaded.network):
        raise InputError(f"the companion {name} is the network itself; give another network of the same classes")
    return companion


def companion_note(detector: Detector, loaded: LoadedNetwork, companion: LoadedNetwork, device: str) -> str:
    """The passes of one image through network and companion, and their cost, for the user.

    Args:
        detector: that compares both.
        loaded: the network.
        companion: the companion.
        device: where both are.
    """
    needs = needs_of(detector.feature_requests())
    own, other = ["image", *(view.name for view in needs.views)], [view.name or "image" for view in needs.companion]
    seconds = [_seconds(each.network, loaded.spec.image_shape, device) for each in (loaded, companion)]
    return (
        f"{len(own) + len(other)} passes of each image: {' and '.join(own)} through the network, {' and '.join(other)} "
        f"through the companion {network_name(companion)}; a pass takes {1000 * seconds[0]:.2g} and "
        f"{1000 * seconds[1]:.2g} ms in batches of {_BATCH}"
    )


def _seconds(network: Normalized, shape: tuple[int, int, int], device: str) -> float:
    """The shortest time of a pass, per image."""
    images, times = torch.full((_BATCH, *shape), 0.5, device=device), []
    with torch.inference_mode():
        for _ in range(_REPEATS):
            start = time.perf_counter()
            network(images).cpu()
            times.append(time.perf_counter() - start)
    return min(times) / _BATCH
