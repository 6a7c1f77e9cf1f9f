"""Requests of `plumbline geometry` and its two experiments; this module imports no torch."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from models.errors import InputError
from models.images.policy import MAX_PIXELS
from models.options import check_count
from service.requests.options import Flag, MaxPixels, PerChannel, Seed, Whole

__all__ = ["TABLES", "CirclesRequest", "DecodingsRequest", "GeometryRequest"]

TABLES = (19, 20, 21, 22)  # of the thesis


def _tables(_hint: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    text = tokens[-1].value
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError as exc:
        raise ValueError(f"expected numbers of tables separated by commas, got {text!r}") from exc


@dataclass(frozen=True)
class GeometryRequest:
    """The options of `plumbline geometry`.

    Args:
        networks: references of the networks, measured side by side.
        out: folder of report.json and report.html.
        dataset: a data set of `plumbline list datasets`, such as images:FOLDER or npz:FILE.
        data_root: folder of downloaded data sets.
        download: fetch a missing data set.
        resize: shorter side of the images; by default the networks' own.
        crop: central square of the images; by default the networks' own.
        limit: use a random sample of this many images.
        max_pixels: maximum width × height of an image file.
        blocks: names of the modules that are the blocks, such as "blocks.*".
        transport_images: number of images for assignments and important units.
        epsilon: budgets of FGM with commas, such as "2/255,8/255"; "none" for no attack.
        noise: standard deviations of noise with commas; "none" for no noise.
        mean: normalisation mean per channel, for pixels in [0, 1]; by default the networks' own.
        std: normalisation standard deviation per channel, for pixels in [0, 1]; by default the networks' own.
        device: "cpu" or "cuda".
        seed: seed of sampling, noise and projections.
    """

    networks: Annotated[tuple[str, ...], Parameter(negative=())]
    _: KW_ONLY
    out: Path
    dataset: str = "digits"
    data_root: Path = Path("data")
    download: Flag = False
    resize: Whole | None = None
    crop: Whole | None = None
    limit: Whole | None = None
    max_pixels: MaxPixels = MAX_PIXELS
    blocks: str | None = None
    transport_images: Whole = 500
    epsilon: str = "0.01,0.03,0.1"
    noise: str = "0.03,0.1"
    mean: PerChannel | None = None
    std: PerChannel | None = None
    device: str = "cpu"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class CirclesRequest:
    """The options of `plumbline geometry circles`.

    Args:
        out: folder of report.json and report.html.
        instances: number of instances of data and weights.
        epochs: number of training epochs.
        tables: numbers of tables of the thesis.
        seed: seed of the first instance.

    Raises:
        InputError: another table, fewer than two instances (an interval needs two), no epoch, or a negative seed.
    """

    out: Path
    instances: Whole = 20
    epochs: Whole = 100
    tables: Annotated[tuple[int, ...], Parameter(converter=_tables, n_tokens=1, negative=(), metavar="T,T")] = TABLES
    seed: Whole = 0

    def __post_init__(self) -> None:
        if not self.tables or not set(self.tables) <= set(TABLES):
            given = ",".join(map(str, self.tables))
            raise InputError(f"expected --tables out of {', '.join(map(str, TABLES))}, got {given or 'none'}")
        check_count("instances", self.instances, least=2)
        check_count("epochs", self.epochs)
        check_count("seed", self.seed, least=0, most=2**31 - 1 - self.instances)


@dataclass(frozen=True, kw_only=True)
class DecodingsRequest:
    """The options of `plumbline geometry decodings`.

    Args:
        out: folder of report.json and report.html.
        dataset: a data set of `plumbline list datasets`, such as images:FOLDER or npz:FILE.
        data_root: folder of downloaded data sets.
        download: fetch a missing data set.
        limit: use a random sample of this many images, held-out ones included.
        max_pixels: maximum width × height of an image file.
        held_out: share of the images to test on.
        objective: objective that is compared with cross-entropy.
        epochs: epochs of each network.
        autoencoder_epochs: epochs of the autoencoder.
        batch_size: images per step of each network.
        learning_rate: learning rate of each network.
        channels: channels of the latent space.
        blocks: residual blocks of each network.
        images: number of held-out images to draw.
        seed: seed of weights, sampling and order.

    Raises:
        InputError: a seed or a number of images out of its range.
    """

    out: Path
    dataset: str = "digits"
    data_root: Path = Path("data")
    download: Flag = False
    limit: Whole | None = None
    max_pixels: MaxPixels = MAX_PIXELS
    held_out: float = 0.2
    objective: str = "least_action:initial_weight=5:increase=1:update_every=5"
    epochs: Whole = 10
    autoencoder_epochs: Whole = 10
    batch_size: Whole = 64
    learning_rate: float = 0.05
    channels: Whole = 16
    blocks: Whole = 9
    images: Whole = 8
    seed: Whole = 0

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0, most=2**31 - 1)
        check_count("images", self.images)
