"""The request of `plumbline train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from models.images.policy import MAX_PIXELS
from service.requests.options import MaxPixels, PerChannel, Seed, Whole

__all__ = ["TrainRequest"]


def _numbers(_hint: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    text = tokens[-1].value
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as exc:
        raise ValueError(f"expected whole numbers separated by commas, got {text!r}") from exc


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Train a network. An interrupted run resumes with the same command.

    Args:
        network: a name from `plumbline list networks`, with options as NAME:OPTION=VALUE, torchvision:NAME or
            PATH.py:CALLABLE.
        out: folder of the checkpoint to write.
        recipe: TOML file whose table [train] gives the options that the command line does not give.
        dataset: a data set of `plumbline list datasets`, such as images:FOLDER or npz:FILE.
        test_dataset: data set to test on [default: the test split of dataset].
        test_every: number of epochs between two tests; the written network is always tested.
        data_root: folder of downloaded data sets.
        download: fetch a missing data set.
        resize: length of the shorter side, in pixels.
        crop: side of the central square, in pixels.
        limit: train on this many images, sampled at random.
        max_pixels: maximum width × height of an image file.
        strict: refuse every unreadable image file, instead of skipping up to 1 %.
        mean: normalisation mean R,G,B of pixels in [0, 1] [default: of the images].
        std: normalisation standard deviation R,G,B [default: of the images].
        objective: a name from `plumbline list objectives`, with options: NAME:OPTION=VALUE.
        adapt_depth: rule that changes the depth of runge_kutta, such as halve:tolerance=4.
        epochs: number of epochs.
        batch_size: images per step.
        learning_rate: largest learning rate.
        schedule: learning-rate schedule.
        milestones: epochs at which schedule step decays, E,E [default: 50, 75 and 83 %].
        decay: factor of schedule step at each milestone.
        optimizer: optimizer of the weights.
        momentum: momentum of sgd, or the first moment's decay of adamw.
        nesterov: Nesterov momentum in sgd.
        weight_decay: weight decay.
        label_smoothing: label smoothing of the objective.
        gradient_clipping: largest gradient norm.
        initialization: initial weights of convolutions and linear layers [default: the network's own].
        gain: gain of the initialization.
        crop_padding: padding of random crops, in pixels.
        flip: mirror images at random [default: not for digits].
        cutout: side of a random square of zeros in every image, in pixels.
        sizes: shorter sides of the images in pixels, S,S, each for an equal share of the epochs [default: their own].
        precision: precision of the forward pass.
        half: store the weights in half precision.
        device: cpu or cuda.
        seed: seed of weights, order and augmentation.
    """

    network: str
    out: Path
    recipe: Path | None = None
    dataset: str = "digits"
    test_dataset: str | None = None
    test_every: Whole = 1
    data_root: Path = Path("data")
    download: bool = False
    resize: Whole | None = None
    crop: Whole | None = None
    limit: Whole | None = None
    max_pixels: MaxPixels = MAX_PIXELS
    strict: bool = False
    mean: PerChannel | None = None
    std: PerChannel | None = None
    objective: str = "cross_entropy"
    adapt_depth: str | None = None
    epochs: Whole = 30
    batch_size: Whole = 128
    learning_rate: float = 0.1
    schedule: Literal["one_cycle", "step", "cosine", "constant"] = "one_cycle"
    milestones: Annotated[tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, negative=(), metavar="E,E")] = ()
    decay: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    gradient_clipping: float | None = None
    initialization: Literal["default", "kaiming", "orthogonal", "normal"] = "default"
    gain: float = 1.0
    crop_padding: Whole = 4
    flip: bool | None = None
    cutout: Whole = 0
    sizes: Annotated[tuple[int, ...], Parameter(converter=_numbers, n_tokens=1, negative=(), metavar="S,S")] = ()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    half: bool = False
    device: str = "cpu"
    seed: Seed = 0
