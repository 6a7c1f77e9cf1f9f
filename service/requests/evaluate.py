"""The request of `plumbline evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from models.images.policy import MAX_PIXELS
from service.requests.options import Commas, Flag, MaxPixels, Memory, Names, PerChannel, RunnerName, Seed, Whole

__all__ = ["EvaluationRequest"]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Options of an evaluation; each field is the command-line option of its name.

    Fields of several values are written with commas on the command line, except `attack_limit`, `ood` and `fit_ood`,
    whose values are separate words.

    Args:
        out: folder of the report: report.json, report.csv, report.html.
        artifact: folder that `plumbline fit` wrote. Alone, it is evaluated on all images that it has not seen.
        network: reference of the network to fit detectors on; beside `artifact`, only for a network from a user's file.
        companion: a second network of the same classes, for detectors that use a companion.
        verify_key: refuse an artifact that is not signed with the secret in this file.
        detectors: to fit, such as `transport`, `mahalanobis:magnitude=0.0014` or `external:PATH.py:CALLABLE`.
        mean: normalisation mean per channel R,G,B, for pixels in [0, 1].
        std: normalisation standard deviation per channel R,G,B, for pixels in [0, 1].
        dataset: natural images.
        data_root: folder of downloaded data sets.
        download: download a missing data set.
        resize: pixels of the shorter side.
        crop: pixels of the central square.
        limit: use a random sample of this many images.
        max_pixels: maximum width × height of an image file.
        strict: refuse every unreadable image file, instead of skipping up to 1 %.
        protocol: "paper" as in the thesis, 5.4.2.
        runs: number of splits; 5 if not given.
        split: shares to fit, calibrate and test on; with protocol "paper", to fit and test on.
        fpr: false-positive rate of thresholds; if not given, the artifact's, or 0.05.
        noisy: count noisy copies as natural images; protocol "paper" only.
        test_on: attacks to test on, with options after colons; if not given, those of `fit_on`.
        fit_on: attacks to fit on, one fit each; `A+B` fits on both, `all` on all. Default: fgm.
        fit_successful: fit on successful attacks only.
        of: tensors whose norms and cosines are computed.
        directions: cosines to this many further orthogonal vectors.
        blocks: names of the modules that are the blocks, such as "blocks.*".
        epsilon: budget of attacks that do not state theirs, such as 0.03 or 8/255.
        budgets: further budgets of each attack to test on.
        attack_limit: `NAME=N`, to try an attack on N originals only.
        eight_bit: round attacked images to 1/255.
        adaptive: adaptive attacks, such as black_box or orthogonal.
        adaptive_images: images that adaptive attacks are tried on; 200 if not given.
        adaptive_queries: maximum number of queries per image in each run of HopSkipJump; if not given, the thesis's 50
            iterations, about 25,000 queries.
        adaptive_steps: steps of the attacks selective, orthogonal and joint; 100 if not given.
        ood: data sets of outliers to test on.
        fit_ood: data sets of outliers to fit on too.
        reference: natural images that detectors compare with, such as the network's training images.
        reference_limit: maximum number of reference images, sampled at random; 10,000 if not given.
        csv: write images.csv, a row per image and result.
        resamples: resamples of the bootstrap intervals; 0 for none.
        beside_paper: print published figures beside ours: those of the thesis, or of this CSV file.
        published: network or data set whose published figures are printed.
        runner: attack in shards, locally or with Ray.
        workers: attacking processes; if not given, 1, or with ray one per GPU or CPU.
        cache: folder of attacked images, features and results.
        attacked: use the attacked images in this folder, which `plumbline attack` wrote.
        engine: a name from `plumbline list engines`; auto: the fastest that agrees with torch; an artifact has its own.
        precision: precision of the network's forward pass; an artifact has its own.
        device: cpu or cuda.
        memory: memory that the job may use, such as 3GB; default: a share of what is free.
        seed: seed of splits, noise, classifiers and attacks.
    """

    out: Path
    artifact: Path | None = None
    network: str | None = None
    companion: str | None = None
    verify_key: Path | None = None
    detectors: Commas | None = None
    mean: PerChannel | None = None
    std: PerChannel | None = None
    dataset: str = "digits"
    data_root: Path = Path("data")
    download: Flag = False
    resize: Whole | None = None
    crop: Whole | None = None
    limit: Whole | None = None
    max_pixels: MaxPixels = MAX_PIXELS
    strict: Flag = False
    protocol: Literal["sound", "paper"] = "sound"
    runs: Whole | None = None
    split: str | None = None
    fpr: float | None = None
    noisy: Flag = False
    test_on: Annotated[Commas | None, Parameter(alias="--attacks")] = None
    fit_on: Commas | None = None
    fit_successful: Flag = False
    of: Literal["residues", "embeddings"] = "residues"
    directions: Whole = 0
    blocks: str | None = None
    epsilon: str = "0.03"
    budgets: Commas = ()
    attack_limit: Names = ()
    eight_bit: Flag = False
    adaptive: Commas | None = None
    adaptive_images: Whole | None = None
    adaptive_queries: Whole | None = None
    adaptive_steps: Whole | None = None
    ood: Names = ()
    fit_ood: Names = ()
    reference: str | None = None
    reference_limit: Whole | None = None
    csv: Flag = False
    resamples: Whole = 1000
    beside_paper: Annotated[tuple[Path, ...] | None, Parameter(consume_multiple=(0, 1), negative=())] = None
    published: str | None = None
    runner: RunnerName | None = None
    workers: Whole | None = None
    cache: Path | None = Path("runs/attacks")
    attacked: Path | None = None
    engine: str = "torch"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    memory: Memory | None = None
    seed: Seed = 0
