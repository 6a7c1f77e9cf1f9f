"""Transfer: a white-box attack on a substitute network (Papernot et al., 2016 and 2017)."""

import functools
import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, check_count, project
from attacks.common.building import build_attack
from attacks.common.checks import class_count
from attacks.common.digests import network_digest
from attacks.common.isolation import evaluation_mode
from attacks.common.queries import logits_of
from attacks.decision_based.substitute import fit_substitute
from models.errors import InputError
from models.files import sha256_of
from models.loading import PRETRAINED, load_network

__all__ = ["Transfer"]


class Transfer(Attack):
    """A white-box attack on another network, within epsilon, without gradients of the attacked network.

    The substitute is a network given by reference. Without a reference, a small network is fitted to the attacked
    network's probabilities on the images of the batch and on probes of them (`attacks/decision_based/substitute.py`).
    Such a substitute is weak and depends on the images of the batch: the batch size and the order of the images change
    results. With a reference they change only what they change for the white-box attack.

    Images that the attacked network misclassifies are returned unchanged.

    Args:
        substitute: reference as on the command line (see `models/loading/references.py`): a RUN folder,
            pretrained:NAME, torchvision:NAME:WEIGHTS or PATH.py:CALLABLE[:WEIGHTS], with the classes of the attacked
            network in their order. None: a substitute fitted to each batch.
        attack: name of the white-box attack, with its default settings except for epsilon and norm. Perturbations of an
            attack without a budget are projected onto epsilon.
        epochs: passes over the images in each round of the fit.
        rounds: of the fit after the first; each doubles the number of images.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        substitute: str | None = None,
        attack: str = "pgd",
        epochs: int = 10,
        rounds: int = 4,
        norm: Norm = "linf",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        if substitute is not None and (not isinstance(substitute, str) or not substitute):
            raise InputError(f"expected substitute as the reference of a network or None, got {substitute!r}")
        if attack == "transfer":
            raise InputError("expected a white-box attack such as pgd, got 'transfer' itself")
        self.substitute = substitute
        self.attack = attack
        self.epochs = check_count("epochs", epochs)
        self.rounds = check_count("rounds", rounds, least=0)
        self._white_box()  # fails for an unknown name

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return self.substitute is not None

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch: the substitute, then the white-box attack on it.

        Raises:
            InputError: the substitute has other classes, has no weights, or cannot process the images.
        """
        if self.substitute is None:
            substitute = fit_substitute(network, images, epochs=self.epochs, rounds=self.rounds, seed=self.seed)
        else:
            _, *shape = images.shape
            content = _content(self.substitute)
            substitute = _loaded(self.substitute, content, (shape[0], shape[1], shape[2])).to(images.device)
            theirs, ours = class_count(substitute, images[:1]), class_count(network, images[:1])
            if theirs != ours:
                raise InputError(
                    f"expected a substitute with the attacked network's {ours} classes, got {theirs} classes of "
                    f"{self.substitute!r}; pass a network for the same classes"
                )
        correct = logits_of(network, images).argmax(1) == labels
        with evaluation_mode(substitute):
            found = self._white_box().run(substitute, images.clone(), labels, noise)
        found = project(found.detach(), images, self.epsilon, self.norm)
        return torch.where(correct[:, None, None, None], found, images)

    def libraries(self) -> dict[str, str]:
        """Libraries of the white-box attack, and what else decides the result without being an option.

        These are the white-box attack with its settings and its algorithm number, and the SHA-256 of the substitute.

        Raises:
            InputError: there is no such substitute, or it has no weights.
        """
        attack = self._white_box()
        versions = attack.libraries() | {"attack": f"{attack!r}, algorithm {attack.algorithm}"}
        if self.substitute is not None:
            versions["substitute"] = _content(self.substitute)
        return versions

    def _white_box(self) -> Attack:
        accepted = {"epsilon": self.epsilon, "norm": self.norm, "seed": self.seed}
        return build_attack(self.attack, where_accepted=accepted)


@functools.lru_cache(maxsize=1)
def _loaded(reference: str, content: str, image_shape: tuple[int, int, int]) -> nn.Module:
    """The network of the reference; the same object for the same reference and content."""
    return _trained(reference, image_shape)


def _content(reference: str) -> str:
    """SHA-256 of all files of the reference; of the network if it has none, as for torchvision's presets."""
    head, _, rest = reference.partition(":")
    if head == "pretrained":
        named = [PRETRAINED / rest]
    elif head == "torchvision":
        named = [Path(part) for part in rest.split(":")[1:] if part]
    else:
        named = [Path(part) for part in (reference, *reference.split(":")) if part]
    files = [file for path in named for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    if not files:
        return network_digest(_trained(reference, None))
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def _trained(reference: str, image_shape: tuple[int, int, int] | None) -> nn.Module:
    loaded = load_network(reference, image_shape=image_shape)
    if not loaded.trained:
        raise InputError(
            f"expected a substitute with weights, got {reference!r}, whose weights would be random; pass a RUN "
            "folder, pretrained:NAME, torchvision:NAME:WEIGHTS or PATH.py:CALLABLE"
        )
    return loaded.network
