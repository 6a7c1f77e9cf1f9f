"""Duration of a batch through network and detector ÷ the same batch through the network alone.

The detector's part is everything between images and score: features of the pass, a second view if the detector needs
one, columns, components and classifiers. The images are smooth noise, which has no effect on the durations.

    ratio     network and detector, including scoring
    scoring   of this, the part after the pass
    compiled  compiled pass with features ÷ compiled pass without (with --compile), and scoring ÷ the latter

For every batch size the result also has the ratio for twice as many images through the network alone: the lower bound
of a detector with a second view.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import arguments, paired, write_result
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.features import extract_features, needs_of
from models.loading import LoadedNetwork, load_network
from models.memory import keep_freed_memory
from models.residuals import StatisticsSpec, WithPooled, WithStatistics, discover

DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "transport": ("transport", {}),
    "mahalanobis": ("mahalanobis", {}),
    "path": ("path", {}),
    "path, natural images only": ("path", {"classifier": "none"}),
    "views": ("views", {"view": "flip"}),
    "fusion": ("fusion", {"view": "flip"}),
    "fusion, natural images only": ("fusion", {"view": "flip", "classifier": "none"}),
}
FITTED_ON = 600  # natural images, and as many others


def images(count: int, shape: tuple[int, int, int], seed: int, coarse: int) -> Tensor:
    """Smooth noise ``(count, 3, H, W)`` in [0, 1], interpolated from `coarse` × `coarse` random values."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((count, 3, coarse, coarse), generator=generator)
    return F.interpolate(noise, shape[1:], mode="bilinear", align_corners=True)


def pipeline(loaded: LoadedNetwork, name: str, options: dict[str, Any], seed: int, device: str) -> Pipeline:
    """A pipeline with that detector, fitted on smooth noise against rougher noise."""
    network, shape = loaded.network.to(device), loaded.spec.image_shape
    discovery = discover(network, shape)
    detector = build_detector(name, options, where_accepted={"seed": seed})

    def features(coarse: int, number: int) -> Any:
        given = images(FITTED_ON, shape, seed + number, coarse)
        return extract_features(
            network, given, discovery=discovery, feature_requests=detector.feature_requests(), device=device
        )

    if detector.needs_reference:
        detector.prepare(features(8, 1))
    natural = features(8, 2)
    detector.fit(natural, features(16, 3) if detector.needs_adversarial else None)
    return Pipeline(
        network=loaded.network, discovery=discovery, statistics_spec=StatisticsSpec(), detector=detector,
        calibration=Calibration(detector.score(features(8, 4)), 0.05),
        classes=[str(k) for k in range(natural.logits.shape[1])], band=natural_band(natural.statistics),
        image_shape=shape, device=device,
    )  # fmt: skip


def measure(
    loaded: LoadedNetwork, label: str, batch: int, rounds: int, seed: int, device: str, compiled: bool
) -> dict[str, Any]:
    """The ratios of one detector at one batch size, and the bytes of its state."""
    name, options = DETECTORS[label]
    scorer = pipeline(loaded, name, options, seed, device)
    given = images(batch, loaded.spec.image_shape, seed, 8).to(device)

    plain = passing(loaded.network, given)
    whole = paired(plain, lambda: scorer.detector.score_components(scorer.features(given)), rounds, warmup=3)
    features = scorer.features(given)
    scoring = paired(plain, lambda: scorer.detector.score_components(features), rounds)
    return {
        "detector": label, "batch": batch, "ratio": whole.to_json(), "scoring": scoring.to_json(),
        "state_bytes": sum(array.nbytes for array in scorer.detector.state().values()),
        "compiled": compiled_cost(scorer, given, rounds) if compiled else None,
    }  # fmt: skip


def passing(network: nn.Module, given: Tensor) -> Callable[[], None]:
    """A pass until its predictions are on the CPU."""

    def run() -> None:
        with torch.inference_mode():
            output = network(given)
            (output if isinstance(output, Tensor) else output[0]).argmax(dim=1).cpu()

    return run


def compiled_cost(scorer: Pipeline, given: Tensor, rounds: int) -> dict[str, Any] | None:
    """The ratios with both passes compiled; None for features that need hooks."""
    needs = needs_of(scorer.detector.feature_requests())
    if needs.embeddings:
        return None
    kind = WithPooled if needs.pooled else WithStatistics
    watching = kind(scorer.network, scorer.discovery, image_shape=scorer.image_shape).eval()
    torch.compiler.reset()
    plain = passing(torch.compile(scorer.network), given)
    seen = torch.cat([given, *(view(given) for view in needs.views)])
    whole = paired(plain, passing(torch.compile(watching), seen), rounds, warmup=3)
    features = scorer.features(given)
    scoring = paired(plain, lambda: scorer.detector.score_components(features), rounds)
    return {"passing": whole.to_json(), "scoring": scoring.to_json()}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=41)
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256], help="images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="also compiled; needs a C++ compiler on CPU")
    options = parser.parse_args(argv)
    keep_freed_memory()  # `plumbline serve` and the jobs do the same
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load_network(options.network)
    cases, twice = [], {}
    for batch in options.batch:
        given = images(2 * batch, loaded.spec.image_shape, options.seed, 8).to(options.device)
        network = loaded.network.to(options.device).eval()
        twice[str(batch)] = paired(
            passing(network, given[:batch]), passing(network, given), options.rounds, warmup=3
        ).to_json()
        print(f"twice {batch}: {twice[str(batch)]['ratio']:.3f}", flush=True)
        for label in DETECTORS:
            case = measure(loaded, label, batch, options.rounds, options.seed, options.device, options.compile)
            cases.append(case)
            ratio = case["ratio"]
            print(
                f"{label}, batch {batch}: {ratio['ratio']:.3f} [{ratio['low']:.3f} to {ratio['high']:.3f}], of which "
                f"scoring {case['scoring']['ratio']:.3f}; state {case['state_bytes'] / 1e6:.2f} MB",
                flush=True,
            )
            if case["compiled"]:
                parts = {name: round(part["ratio"], 3) for name, part in case["compiled"].items()}
                print(f"  compiled: {parts}", flush=True)
    payload = {
        "n": FITTED_ON, "seed": options.seed, "device": options.device, "network": options.network,
        "unit": "duration of network and detector ÷ duration of the network alone; medians over paired rounds",
        "twice_the_batch": twice, "cases": cases,
    }  # fmt: skip
    print(write_result("detector_cost", payload, options.out))


if __name__ == "__main__":
    main()
