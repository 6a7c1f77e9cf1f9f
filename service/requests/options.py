"""Option types and groups that several requests share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from models.errors import InputError
from models.images.policy import MAX_PIXELS
from models.memory import parse_memory

__all__ = [
    "ArtifactOptions",
    "Commas",
    "Flag",
    "ImageOptions",
    "LoadingOptions",
    "MaxPixels",
    "Memory",
    "Names",
    "NetworkOptions",
    "NormalizationOptions",
    "PerChannel",
    "RunnerName",
    "Seed",
    "Whole",
]

_MAX_SEED = 2**31 - 1


# Converters get the values of every repetition of an option; the last one wins.
def _whole(_hint: Any, tokens: Sequence[Token]) -> int:
    text = tokens[-1].value
    try:
        return int(text)
    except ValueError as exc:
        raise ValueError(f"expected a whole number, got {text!r}") from exc


def _seed(_hint: Any, tokens: Sequence[Token]) -> int:
    text = tokens[-1].value
    if not text.isascii() or not text.isdigit() or int(text) > _MAX_SEED:
        raise ValueError(f"expected a whole number from 0 to {_MAX_SEED}, got {text!r}")
    return int(text)


def _per_channel(_hint: Any, tokens: Sequence[Token]) -> tuple[float, ...]:
    """Three numbers of "R,G,B", or of one number that stands for all three."""
    text = tokens[-1].value
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as exc:
        raise ValueError(f"expected numbers separated by commas, got {text!r}") from exc
    if len(numbers) not in (1, 3):
        raise ValueError(f"expected one number or three, got {text!r}")
    return numbers * 3 if len(numbers) == 1 else numbers


def _memory(_hint: Any, tokens: Sequence[Token]) -> int:
    try:
        return parse_memory(tokens[-1].value)
    except InputError as exc:
        raise ValueError(str(exc)) from exc


def _commas(_hint: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(word.strip() for word in tokens[-1].value.split(","))


Whole = Annotated[int, Parameter(converter=_whole)]  # by itself, cyclopts rounds 2.5 to 2
Seed = Annotated[int, Parameter(converter=_seed)]
PerChannel = Annotated[tuple[float, ...], Parameter(converter=_per_channel, n_tokens=1, negative=(), metavar="R,G,B")]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None), negative=())]
Memory = Annotated[int, Parameter(converter=_memory, metavar="SIZE")]  # bytes
RunnerName = Literal["local", "ray"]
Flag = Annotated[bool, Parameter(negative=())]  # without a --no- form
MaxPixels = Annotated[int, Parameter(converter=_whole, env_var="PLUMBLINE_MAX_PIXELS", show_env_var=False)]
Commas = Annotated[tuple[str, ...], Parameter(converter=_commas, n_tokens=1, negative=(), metavar="A,B")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NormalizationOptions:
    """The normalisation of a network.

    Args:
        mean: normalisation mean per channel R,G,B, for pixels in [0, 1].
        std: normalisation standard deviation per channel R,G,B, for pixels in [0, 1].
    """

    mean: PerChannel | None = None
    std: PerChannel | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NetworkOptions(NormalizationOptions):
    """A network and its normalisation.

    Args:
        network: RUN, pretrained:NAME, torchvision:NAME[:WEIGHTS], timm:NAME[:WEIGHTS], hf:FOLDER,
            PATH.py:CALLABLE[:WEIGHTS], or a name from `plumbline list networks`.
        mean: normalisation mean per channel R,G,B, for pixels in [0, 1].
        std: normalisation standard deviation per channel R,G,B, for pixels in [0, 1].
    """

    network: str


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How images are loaded and preprocessed.

    Args:
        data_root: folder of downloaded data sets.
        download: fetch a missing data set.
        resize: length of the shorter side, in pixels.
        crop: side of the central square, in pixels.
        limit: use this many images, sampled at random.
        max_pixels: maximum width × height of an image file.
        strict: refuse every unreadable image file, instead of skipping up to 1 %.
    """

    data_root: Path = Path("data")
    download: Flag = False
    resize: Whole | None = None
    crop: Whole | None = None
    limit: Whole | None = None
    max_pixels: MaxPixels = MAX_PIXELS
    strict: Flag = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImageOptions(LoadingOptions):
    """Natural images and their preprocessing.

    Args:
        dataset: a data set of `plumbline list datasets`, such as images:FOLDER or npz:FILE.
        data_root: folder of downloaded data sets.
        download: fetch a missing data set.
        resize: length of the shorter side, in pixels.
        crop: side of the central square, in pixels.
        limit: use this many images, sampled at random.
        max_pixels: maximum width × height of an image file.
        strict: refuse every unreadable image file, instead of skipping up to 1 %.
    """

    dataset: str = "digits"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ArtifactOptions:
    """An artifact to load.

    Args:
        artifact: folder that `plumbline fit` wrote.
        network: PATH.py:CALLABLE of the network, if it comes from a user's file.
        verify_key: refuse an artifact that is not signed with the secret in this file.
        device: cpu or cuda.
    """

    artifact: Path
    network: str | None = None
    verify_key: Path | None = None
    device: str = "cpu"
