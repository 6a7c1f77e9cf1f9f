"""How much of a detection figure is made by clipping normalised images to [0, 1]: with an attack, and without any.

    python -m benchmarks.detection.normalised_clipping --dataset npz:cifar10-test.npz --limit 2000

Published code normalises images before it gives them to an attack library, z = (x − mean) / std, and tells the library
that values lie in [0, 1]. About half of z is below 0. What comes of it depends on the attack:

    clipped     An attack that looks for a small perturbation (DeepFool, Carlini-Wagner) clips z itself: every value
                under 0 becomes 0, so every pixel darker than the mean becomes the mean, and what is over 1 is cut off.
    nudged      An attack with a budget ε (FGM, BIM, PGD) clips, and then goes back to within ε of z: every value under
                −ε is raised by ε, whatever the gradient says. In ART 1.20 the projection comes last.

Here both are done to images without any attack; attacks are run after clipping, by the engines of this project on the
network without its normalisation ("clipped then fgm"); ART itself is run on z as the published code runs it ("ART on z:
fgm"); and the same attacks are run as they should be, on pixels, at the same ε and at the one that is as large in
pixels as ε is in z ("fgm", "fgm, small"). All of them are mapped back to pixels, where they lie in [0, 1], so that one
network and one set of detectors judges them all; once as they are, and once rounded to 8 bits, as a PNG would carry
them, since attacked images in floating point are told from natural ones by that alone.

The detectors follow the thesis's protocol (5.4.2): 0.9 of the originals to fit on, 0.1 to judge, a vote of 0.5. Each is
fitted on every set and judged on it; and those fitted on images that were only clipped or only nudged, which no attack
has touched, are judged on all sets.
"""

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import Attack, build_attack, generate
from attacks.common.norms import perturbation_norms
from benchmarks.common import write_result
from detector.base.detector import Detector
from detector.common.result import ScoreResult, build_detector
from detector.metrics import accuracy_at, auroc
from detector.splits import split_originals
from models.datasets.base import DatasetRequest, load_dataset
from models.features import Features, extract_features
from models.loading import load_network
from models.normalization import Normalized
from models.residuals import discover

DETECTORS = ("transport", "nss", "pixel_statistics")
ATTACKS = ("fgm", "pgd", "deepfool", "carlini_wagner")
BUDGETED = {"fgm": "FastGradientMethod", "bim": "BasicIterativeMethod", "pgd": "ProjectedGradientDescent"}
UNTOUCHED = ("clipped", "nudged")


@dataclass(frozen=True)
class ImageSet:
    """What was done to the images, and what the network and the detectors see of them."""

    name: str
    how: str
    eight_bit: bool
    features: Features
    figures: dict[str, Any]
    success: np.ndarray


def main() -> None:
    """Run the experiment on the images that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="test images, such as npz:cifar10-test.npz")
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--limit", type=int, default=2000, help="images (default: %(default)s)")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="default: %(default)s")
    parser.add_argument("--epsilon", type=float, default=0.03, help="of FGM, BIM and PGD (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of BIM and PGD (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="splits (default: %(default)s)")
    parser.add_argument("--trees", type=int, default=100, help="per forest (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder to keep attacked sets in")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root)).limited(options.limit, options.seed)
    loaded = load_network(options.network, num_classes=len(data.classes), image_shape=data.image_shape)
    detectors = {
        name: build_detector(name, where_accepted={"num_trees": options.trees, "seed": options.seed})
        for name in DETECTORS
    }
    images, labels = data.tensor(), torch.from_numpy(data.labels)
    sets = list(_sets(loaded.network, images, labels, detectors, options))
    results = [
        row
        for eight_bit in (False, True)
        for name, detector in detectors.items()
        for row in _judged(name, detector, [each for each in sets if each.eight_bit == eight_bit], data.labels, options)
    ]
    values = _normalised(loaded.network, images)
    payload = {
        "n": len(data), "seed": options.seed, "dataset": options.dataset.partition(":")[0],
        "network": options.network, "runs": options.runs, "epsilon": options.epsilon, "steps": options.steps,
        "trees": options.trees, "attack_library": f"adversarial-robustness-toolbox {_art('art').__version__}",
        "normalised": {
            "below_0": float((values < 0).float().mean()), "above_1": float((values > 1).float().mean()),
            "lowest": float(values.min()), "highest": float(values.max()),
        },
        "sets": [
            {"name": each.name, "how": each.how, "eight_bit": each.eight_bit, **each.figures} for each in sets
        ],
        "results": results,
    }  # fmt: skip
    _print(payload)
    print(f"written to {write_result('normalised_clipping', payload, options.out)}")


# --- what is done to the images


def _sets(
    network: Normalized, images: Tensor, labels: Tensor, detectors: dict[str, Detector], options: argparse.Namespace
) -> Iterator[ImageSet]:
    """The natural set first, then all others, each as it is and rounded to 8 bits."""
    _, *shape = images.shape
    discovery = discover(network, (shape[0], shape[1], shape[2]))
    feature_requests = [
        feature_request for detector in detectors.values() for feature_request in detector.feature_requests()
    ]
    natural: Features | None = None
    for name, how, made in _made(network, images, labels, options):
        for eight_bit in (False, True):
            # As natural images are read, so that equal grey levels are equal to the last bit.
            found = (made * 255).round() / 255 if eight_bit else made
            features = extract_features(network, found, discovery=discovery, feature_requests=feature_requests)
            natural = natural or features
            right, fooled = natural.predicted == labels.numpy(), features.predicted != labels.numpy()
            linf, l2 = (norm.cpu().numpy() for norm in perturbation_norms(images, found))
            figures = {
                "accuracy": float(1 - fooled.mean()),
                "success_rate": float((right & fooled).sum() / right.sum()),
                "linf_median": float(np.median(linf)),
                "l2_median": float(np.median(l2)),
            }
            yield ImageSet(name, how, eight_bit, features, figures, right & fooled)


def _made(
    network: Normalized, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> Iterator[tuple[str, str, Tensor]]:
    """Name, one sentence and pixels of each set."""
    values = _normalised(network, images)
    clipped = values.clamp(0, 1)
    nudged = values + (clipped - values).clamp(-options.epsilon, options.epsilon)
    yield "natural", "as they are", images
    yield "clipped", "normalised images clipped to [0, 1], no attack", _pixels(network, clipped)
    yield "nudged", "normalised images moved by at most epsilon towards [0, 1], no attack", _pixels(network, nudged)
    small = options.epsilon * float(network.std.mean())
    for name in filter(None, options.attacks.split(",")):
        budgeted = name in BUDGETED
        attack = _attack(name, options.epsilon, options)
        found = _attacked(network.network, clipped, labels, attack, options)
        yield f"clipped then {name}", "attacked in the normalised space after clipping", _pixels(network, found)
        if budgeted:
            found = _by_art(network.network, values, labels, name, options)
            yield f"ART on z: {name}", "ART told that normalised images lie in [0, 1]", _pixels(network, found)
            found = _attacked(network, images, labels, _attack(name, small, options), options)
            yield f"{name}, small", f"valid, epsilon {small:.4f} in pixels", found
        found = _attacked(network, images, labels, attack, options)
        yield name, f"valid, epsilon {options.epsilon:g} in pixels" if budgeted else "valid", found


def _normalised(network: Normalized, images: Tensor) -> Tensor:
    return (images - network.mean) / network.std


def _pixels(network: Normalized, values: Tensor) -> Tensor:
    """Back from the normalised space; only rounding can leave [0, 1] here."""
    pixels = values * network.std + network.mean
    assert -1e-5 < pixels.min() <= pixels.max() < 1 + 1e-5
    return pixels.clamp(0, 1)


def _attack(name: str, epsilon: float, options: argparse.Namespace) -> Attack:
    given: dict[str, Any] = {"epsilon": epsilon} if name in BUDGETED else {}
    if name in ("bim", "pgd"):
        given["steps"] = options.steps
    return build_attack(name, given | {"seed": options.seed})


def _attacked(
    network: nn.Module, images: Tensor, labels: Tensor, attack: Attack, options: argparse.Namespace
) -> Tensor:
    """What the attack makes of anything in [0, 1]: of pixels, or of clipped normalised images that pass for pixels."""
    return torch.from_numpy(generate(network, images, labels, attack, cache=options.cache).images)


def _by_art(network: nn.Module, values: Tensor, labels: Tensor, name: str, options: argparse.Namespace) -> Tensor:
    """ART's attack with its default step of 0.1, as published, given clip_values=(0, 1) for values that are not."""
    classes = int(labels.max()) + 1
    with torch.no_grad():
        classes = max(classes, network(values[:1]).shape[1])
    classifier = _art("art.estimators.classification").PyTorchClassifier(
        model=network, loss=nn.CrossEntropyLoss(), input_shape=tuple(values.shape[1:]), nb_classes=classes,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    given: dict[str, Any] = {"eps": options.epsilon, "batch_size": 128}
    if name != "fgm":
        given |= {"max_iter": options.steps, "verbose": False}
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - ART draws its random starts from there
    attack = getattr(_art("art.attacks.evasion"), BUDGETED[name])(classifier, **given)
    return torch.from_numpy(attack.generate(x=values.numpy(), y=labels.numpy())).float()


def _art(module: str) -> Any:
    return importlib.import_module(module)


# --- what detectors make of them


def _judged(
    name: str, detector: Detector, sets: list[ImageSet], labels: np.ndarray, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One detector's figures, mean and standard deviation over the runs, for each set to fit on and to judge."""
    natural, others = sets[0], sets[1:]
    for fitted in others:
        tests = others if fitted.name in UNTOUCHED else [fitted]
        runs: dict[str, list[dict[str, float]]] = {tested.name: [] for tested in tests}
        for run in range(options.runs):
            split = split_originals(len(labels), (0.9, 0.1), labels=labels, seed=options.seed + run)
            detector.fit(natural.features.take(split.fit), fitted.features.take(split.fit), labels[split.fit])
            negatives = detector.score_components(natural.features.take(split.test))
            for tested in tests:
                positives = detector.score_components(tested.features.take(split.test))
                runs[tested.name].append(_figures(negatives, positives, tested.success[split.test]))
        for tested in tests:
            yield {
                "detector": name, "eight_bit": fitted.eight_bit, "fitted_on": fitted.name, "tested_on": tested.name,
                **_over_runs(runs[tested.name]),
            }  # fmt: skip


def _figures(natural: ScoreResult, attacked: ScoreResult, success: np.ndarray) -> dict[str, float]:
    """NaN for the share of successful images where there is none."""
    flagged = attacked.score >= 0.5
    return {
        "accuracy": accuracy_at(natural.score, attacked.score),
        "auroc": auroc(natural.score, attacked.score),
        "auroc_all_class": auroc(natural.components["all_class"], attacked.components["all_class"]),
        "fpr": float((natural.score >= 0.5).mean()),
        "flagged": float(flagged.mean()),
        "flagged_successful": float(flagged[success].mean()) if success.any() else float("nan"),
    }


def _over_runs(runs: list[dict[str, float]]) -> dict[str, float | None]:
    summary: dict[str, float | None] = {}
    for key in runs[0]:
        numbers = [run[key] for run in runs if np.isfinite(run[key])]
        summary[key] = float(np.mean(numbers)) if numbers else None
        summary[f"{key}_std"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return summary


def _print(payload: dict[str, Any]) -> None:
    print(f"normalised: {payload['normalised']}")
    bits = {False: "", True: "  8 bits"}
    for each in payload["sets"]:
        print(
            f"{each['name']:<28} accuracy {each['accuracy']:.3f}  linf {each['linf_median']:.4f}  "
            f"l2 {each['l2_median']:.3f}{bits[each['eight_bit']]}"
        )
    for row in payload["results"]:
        print(
            f"{row['detector']:<18} {row['fitted_on']:<28} {row['tested_on']:<28} "
            f"accuracy {row['accuracy']:.3f}  AUROC {row['auroc']:.3f}{bits[row['eight_bit']]}"
        )


if __name__ == "__main__":
    main()
