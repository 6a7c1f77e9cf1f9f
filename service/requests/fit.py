"""The request of `plumbline fit`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cyclopts import Parameter

from service.requests.options import Flag, ImageOptions, Memory, Names, NetworkOptions, RunnerName, Seed, Whole

__all__ = ["ClassifierChoice", "FitOptions", "FitRequest"]

ClassifierChoice = Literal["random_forest", "gradient_boosting", "logistic_regression", "svm", "none"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a detector is fitted, whatever the network and the images are.

    Args:
        out: folder of the artifact to write.
        detector: a name from `plumbline list detectors`, as views:view=flip [default: fusion, or companion with one].
        attack: attacks to fit on, such as fgm or pgd:steps=40:epsilon=2/255 [default: fgm].
        epsilon: attack budget in units of [0, 1], such as 0.03 or 8/255.
        fpr: false-positive rate to calibrate to.
        split: shares of the images to fit, calibrate and test on [default: 0.8,0.1,0.1; for few images 0.5,0.25,0.25].
        classifier: classifier of the detector; none: its own score, without attacks [default: the detector's].
        of: tensors whose norms and cosines are computed.
        directions: cosines to this many further orthogonal vectors.
        blocks: names of the modules that are the blocks, such as "blocks.*".
        fit_successful: fit on successful attacks only.
        runner: attack in shards, locally or with Ray.
        workers: attacking processes [default: 1; ray: one per GPU, or CPU, of the cluster].
        cache: folder of attacked images, to resume from.
        attacked: use the attacked images in this folder, which `plumbline attack` wrote.
        sign_key: sign the artifact with the secret in this file.
        engine: a name from `plumbline list engines`; auto: the fastest engine that agrees with torch.
        precision: precision of the forward pass.
        device: cpu or cuda.
        memory: memory that the job may use, such as 3GB [default: a share of what is free].
        seed: seed of the split, the attacks and the classifiers.
    """

    out: Path
    detector: str | None = None
    attack: Names | None = None
    epsilon: str = "0.03"
    fpr: float = 0.05
    split: str | None = None
    classifier: ClassifierChoice | None = None
    of: Literal["residues", "embeddings"] = "residues"
    directions: Whole = 0
    blocks: str | None = None
    fit_successful: Flag = False
    runner: RunnerName | None = None
    workers: Whole | None = None
    cache: Path | None = Path("runs/attacks")
    attacked: Path | None = None
    sign_key: Path | None = None
    engine: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    memory: Memory | None = None
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Fit a detector to a network and write an artifact.

    Args:
        network: the network.
        images: natural images, which `options.split` divides.
        options: how the detector is fitted.
        calibrate_on: natural images to calibrate on, instead of a share of the images.
        reference: natural images for detectors that compare with some [default: a quarter of those to fit on].
        companion: a second network of the same classes; train: train one on the reference.
    """

    network: NetworkOptions
    options: FitOptions
    images: ImageOptions = field(default_factory=ImageOptions)
    calibrate_on: str | None = None
    reference: str | None = None
    companion: str | None = None
