"""Settings of an evaluation: protocol, detectors, attacks and budgets, without the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.engines import Precision
from models.errors import InputError
from models.residuals import BlockTensor
from service.adaptive.budgets import Budgets
from service.adaptive.settings import ADAPTIVE_ATTACKS
from service.evaluation.records import Protocol
from service.inputs import label
from service.requests.evaluate import EvaluationRequest

__all__ = ["DEFAULT_DETECTOR", "EvaluationSettings", "settings_of"]

DEFAULT_DETECTOR = "transport"


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of an evaluation; network, images and outliers are the `EvaluationInputs`.

    Args:
        protocol: "sound" or "paper"; see docs/evaluation.md.
        runs: number of splits; every detector is fitted and tested on each.
        detectors: labels such as "mahalanobis:magnitude=0.0014"; the trivial baselines are added. None: transport, or
            no detector beside an artifact.
        fit_on: choices of attacks to fit on, one fit each: an attack, several joined by "+", or "all". None: fgm,
            if some detector needs attacked images and no outliers are given to fit on.
        test_on: attacks to test on; None: those of `fit_on`.
        fit_successful: whether detectors are fitted on successful attacks only.
        of, directions: see `models.residuals.StatisticsSpec`; beside an artifact, its own.
        blocks: pattern of the names of the blocks (`models.residuals.discover`); None to find them.
        budgets: further budgets, such as "2/255", of each attack of `test_on` that has one.
        epsilon: budget of attacks that have one and do not state theirs.
        eight_bit: whether attacked images are rounded to 1/255 before the network sees them.
        noisy: whether noisy copies count as natural images; protocol "paper" only.
        fit_ood: names of the outlier sets to fit on, one fit each.
        reference_limit: maximum number of reference images, sampled at random.
        attack_limit: attack (name or label) → number of originals that it is tried on.
        split: shares of the originals to fit, calibrate and test on; protocol "paper": to fit and test on.
        fpr: false-positive rate that thresholds are calibrated to; 1 % is reported too. None: the artifact's, or 5 %.
        adaptive: adaptive attacks to run last, on at most `adaptive_images` images.
        adaptive_images: maximum number of images of each adaptive attack.
        adaptive_budgets: of adaptive attacks; None: the thesis's.
        seed: of splits, noise, classifiers and attacks.
        runner: name of the runner that attacks in shards; None: attack in processes of this machine.
        workers: processes that attack, and jobs of classifiers while fitting; None: 1, or the runner's default.
        cache: folder of attacked images, features and results; None keeps them in memory.
        attacked: folder of attacked images that `plumbline attack` wrote; None: attack.
        device: where the network runs.
        engine: runs the network of features; beside an artifact, its own.
        precision: of the engine.

    Raises:
        InputError: values outside their domain, or options of the other protocol.
    """

    protocol: Protocol = "sound"
    runs: int = 5
    detectors: tuple[str, ...] | None = None
    fit_on: tuple[str, ...] | None = None
    test_on: tuple[str, ...] | None = None
    fit_successful: bool = False
    of: BlockTensor = "residues"
    directions: int = 0
    blocks: str | None = None
    budgets: tuple[str, ...] = ()
    epsilon: str = "0.03"
    eight_bit: bool = False
    noisy: bool = False
    fit_ood: tuple[str, ...] = ()
    reference_limit: int = 10_000
    attack_limit: Mapping[str, int] = field(default_factory=dict)
    split: str | None = None
    fpr: float | None = None
    adaptive: tuple[str, ...] = ()
    adaptive_images: int = 200
    adaptive_budgets: Budgets | None = None
    seed: int = 0
    runner: str | None = None
    workers: int | None = None
    cache: Path | None = None
    attacked: Path | None = None
    device: str = "cpu"
    engine: str = "torch"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        self._check_protocol()
        if unknown := [name for name in self.adaptive if name not in ADAPTIVE_ATTACKS]:
            raise InputError(f"expected --adaptive out of {', '.join(ADAPTIVE_ATTACKS)}, got {', '.join(unknown)}")
        if not 0 < self.operating_rate < 1:
            raise InputError(f"expected --fpr between 0 and 1, such as 0.05, got {self.fpr}")
        for name in ("runs", "adaptive_images", "reference_limit", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected --{name.replace('_', '-')} of at least one, got {value}")

    def _check_protocol(self) -> None:
        if self.protocol == "sound" and self.noisy:
            raise InputError("the sound protocol uses natural images as they are; use --protocol paper for --noisy")
        if self.protocol == "paper" and self.adaptive:
            raise InputError("--adaptive needs a calibrated threshold; use --protocol sound for --adaptive")
        if self.protocol == "paper" and self.fpr is not None:
            raise InputError("the paper's protocol decides at a vote of 0.5; use --protocol sound for --fpr")

    @property
    def operating_rate(self) -> float:
        """The false-positive rate of the thresholds that images are flagged at."""
        return 0.05 if self.fpr is None else self.fpr

    @property
    def rates(self) -> tuple[float, ...]:
        """The false-positive rates that thresholds are calibrated to, the operating one first."""
        return tuple(dict.fromkeys((self.operating_rate, 0.01)))

    @property
    def attacked_adaptively(self) -> tuple[str, ...]:
        """Labels of the detectors that adaptive attacks run on: the requested ones, without added baselines."""
        return (DEFAULT_DETECTOR,) if self.detectors is None else self.detectors

    @property
    def fits_nothing(self) -> bool:
        """Whether an artifact, where there is one, is evaluated without fitting other detectors."""
        return self.detectors is None and self.fit_on is None and not self.fit_ood


def settings_of(request: EvaluationRequest) -> EvaluationSettings:
    """The settings that a request states.

    Raises:
        InputError: see `EvaluationSettings`; a malformed --attack-limit, or adaptive options without --adaptive.
    """
    defaults = EvaluationSettings()
    return EvaluationSettings(
        protocol=request.protocol, runs=_or(request.runs, defaults.runs), detectors=request.detectors,
        fit_on=request.fit_on, test_on=request.test_on, fit_successful=request.fit_successful, of=request.of,
        directions=request.directions, blocks=request.blocks, budgets=request.budgets, epsilon=request.epsilon,
        eight_bit=request.eight_bit, noisy=request.noisy, fit_ood=tuple(map(label, request.fit_ood)),
        reference_limit=_or(request.reference_limit, defaults.reference_limit),
        attack_limit=_attack_limits(request.attack_limit), split=request.split, fpr=request.fpr,
        adaptive=request.adaptive or (), adaptive_images=_or(request.adaptive_images, defaults.adaptive_images),
        adaptive_budgets=_adaptive_budgets(request), seed=request.seed, runner=request.runner, workers=request.workers,
        cache=request.cache, attacked=request.attacked, device=request.device, engine=request.engine,
        precision=request.precision,
    )  # fmt: skip


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _attack_limits(pairs: Sequence[str]) -> dict[str, int]:
    limits = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdigit():
            raise InputError(f"expected --attack-limit NAME=N, such as hop_skip_jump=200, got {pair!r}")
        limits[name] = int(number)
    return limits


def _adaptive_budgets(request: EvaluationRequest) -> Budgets | None:
    """The budgets of adaptive attacks; None where the request states none."""
    options = {"queries": request.adaptive_queries, "descent_steps": request.adaptive_steps}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if (given or request.adaptive_images is not None) and request.adaptive is None:
        raise InputError(
            "--adaptive-images, --adaptive-queries and --adaptive-steps need --adaptive; name adaptive attacks, such "
            "as --adaptive black_box"
        )
    return Budgets(**given) if given else None
