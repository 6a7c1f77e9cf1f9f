"""`plumbline demo`: fit, attack, evaluate and draw on bundled photos, and save images to send to the server."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attacks import generate
from detector.artifact import Artifact, load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.files import write_atomically
from models.loading import load_network
from service.evaluation.planning.images import without_seen
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.records import Evaluation
from service.evaluation.running.run import run_evaluation
from service.inputs import attack_of, say
from service.jobs.fit import FitInputs, fit_detector
from service.report import draw_paths, write_evaluation_report
from service.report.figures.svg import as_png
from service.requests.demo import DemoRequest
from service.requests.fit import FitOptions

__all__ = ["DemoResult", "demo", "serve_demo"]

DATASET = "cifar10_sample"
NETWORK = "pretrained:cifar10-resnet20"
EPSILON = "4/255"
FITTED_ON = ("fgm",)
TESTED_ON = ("fgm", "pgd:steps=10:epsilon=2/255", "deepfool")
OUTLIERS = f"random_crops:{DATASET}"
_SPLIT = "0.5,0.3,0.2"
_EXAMPLES = 6  # photos that the web page offers, each natural and attacked


@dataclass(frozen=True)
class DemoResult:
    """Figures and folder of the demo.

    Args:
        figures: summary of the evaluation, as in report.json.
        out: folder with artifact/, report/, examples/, paths.png, natural.png and attacked.png.
    """

    figures: dict[str, Any]
    out: Path


def demo(request: DemoRequest) -> DemoResult:
    """Fit on natural and FGM images, then evaluate on images and attacks that the detector has not seen.

    Attacks that are already in ``request.out`` are used again.
    """
    out, seed, cache = request.out, request.seed, request.out / "attacks"
    data = load_dataset(DATASET, DatasetRequest())
    say(f"1/4  fit a detector for {NETWORK} on {len(data)} CIFAR-10 photos, natural and attacked by FGM at {EPSILON}")
    options = FitOptions(out=out / "artifact", attack=FITTED_ON, epsilon=EPSILON, split=_SPLIT, seed=seed, cache=cache)
    fit_detector(FitInputs(data=data, loaded=load_network(NETWORK)), options)
    artifact = load_artifact(out / "artifact")
    fresh = without_seen(artifact, data)
    say(f"2/4  evaluate it on {len(fresh)} unseen photos: natural, attacked by {', '.join(TESTED_ON)}, and outliers")
    settings = EvaluationSettings(test_on=TESTED_ON, epsilon=EPSILON, seed=seed, cache=cache)
    outliers = {OUTLIERS: load_dataset(OUTLIERS, DatasetRequest())}
    inputs = EvaluationInputs(data=fresh, artifact=artifact, outliers=outliers)
    evaluation = run_evaluation(plan_evaluation(inputs, settings))
    say("3/4  draw the report")
    figures = write_evaluation_report(out / "report", evaluation)
    _save_paths(out / "paths.png", evaluation)
    say("4/4  save photos to send to the server")
    _save_examples(out, artifact, fresh, seed)
    return DemoResult(figures, out)


def serve_demo(request: DemoRequest) -> None:
    """Serve the artifact of the demo with its examples, until a signal stops the server."""
    from service.http.inference.model import ModelSource
    from service.http.server.run import serve
    from service.http.settings import read_settings

    load: Callable[[], Artifact] = partial(load_artifact, request.out / "artifact")
    settings = read_settings(port=request.port, examples=request.out / "examples")
    serve({"cifar10": ModelSource(load(), load)}, settings)


def _save_paths(path: Path, evaluation: Evaluation) -> None:
    result = next(each for each in evaluation.detector_results if not each.baseline)
    write_atomically(path, as_png(draw_paths(evaluation, result, title="Paths of photos through the residual blocks")))


def _save_examples(out: Path, artifact: Artifact, data: ImageDataset, seed: int) -> None:
    """Photos and the same photos attacked, as PNG files and so rounded to 8 bits."""
    attack = attack_of("fgm", epsilon=EPSILON, seed=seed)
    images = data.tensor()
    made = generate(artifact.pipeline.network, images, data.labels, attack, cache=out / "attacks", progress=False)
    attacked = torch.from_numpy(made.images).mul(255).round().div_(255)
    # Prefer a photo that passes, and that is misclassified and flagged once it is attacked.
    clear = [
        not before.flagged and after.flagged and before.label == label != after.label
        for before, after, label in zip(
            artifact.pipeline.score(images), artifact.pipeline.score(attacked), data.labels, strict=True
        )
    ]
    rows = np.argsort(~np.array(clear), kind="stable")[:_EXAMPLES]
    for number, row in enumerate(rows, start=1):
        for kind, image in (("natural", images[row]), ("attacked", attacked[row])):
            picture = _png(image)
            write_atomically(out / "examples" / f"{number}-{kind}.png", picture)
            if number == 1:
                write_atomically(out / f"{kind}.png", picture)


def _png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
