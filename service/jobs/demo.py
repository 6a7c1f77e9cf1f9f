"""`plumbline demo`: the whole line on scikit-learn's digits: train, attack, fit, evaluate, draw, and perhaps serve."""

import functools
import shlex
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attacks import generate
from detector.artifact import Artifact, load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import CheckpointError
from models.loading import LoadedNetwork, load_checkpoint, load_network, save_checkpoint
from models.objectives.cross_entropy import CrossEntropy
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.evaluation.planning.images import without_seen
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.records import Evaluation
from service.evaluation.running.run import run_evaluation
from service.http.inference.repository import ModelSource
from service.http.server.run import serve
from service.http.settings import read_settings
from service.inputs import attack_of, say
from service.jobs.fit import fit
from service.provenance import provenance
from service.report import as_table, draw_paths, write_evaluation_report

__all__ = ["run"]

# Digits have strokes of full contrast, so a network on them stands more than one on photographs.
EPSILON = "0.1"
EXAMPLES = 6  # digits that the server's web page offers, each natural and attacked
FITTED_ON = ["fgm", "pgd:steps=20"]
TESTED_ON = ("fgm", "pgd:steps=20", "bim:steps=20", "apgd:steps=20")


def run(options: Namespace) -> None:
    """Everything, in `options.out`; what is there already from the same seed is used again."""
    out: Path = options.out
    train_data, data = (load_dataset("digits", DatasetRequest(split=split)) for split in ("train", "test"))
    say("1/5  a ResNet-20 learns scikit-learn's digits")
    loaded = _trained(train_data, data, out / f"network-{options.seed}", options.seed)
    say(f"2/5  a detector is fitted on digits attacked by {' and '.join(FITTED_ON)}, epsilon {EPSILON}")
    fit(
        data, loaded, out=out / "artifact", attacks=FITTED_ON, epsilon=EPSILON, fpr=0.05, split="0.6,0.2,0.2",
        seed=options.seed, cache=out / "attacks",
    )  # fmt: skip
    artifact = load_artifact(out / "artifact")
    fresh = without_seen(artifact, data)
    say(f"3/5  it judges {len(fresh)} digits it never saw, as they are and attacked by {', '.join(TESTED_ON)}")
    settings = EvaluationSettings(test_on=TESTED_ON, epsilon=EPSILON, seed=options.seed, cache=out / "attacks")
    evaluation = run_evaluation(plan_evaluation(EvaluationInputs(data=fresh, artifact=artifact), settings))
    say("4/5  the report is drawn")
    figures = write_evaluation_report(out / "report", evaluation)
    _save_picture(out / "paths.png", evaluation)
    say("5/5  two digits to send to the server are saved")
    _save_digits(out, artifact, fresh, options.seed)
    print(as_table(figures))
    print(f"\npaths of natural and attacked digits, block by block: {out / 'paths.png'}")
    print(f"report: {out / 'report' / 'report.html'}\nartifact: {out / 'artifact'}")
    url = f"http://127.0.0.1:{options.port}/v1/predict"
    print("\nserve it, then ask it from another terminal:")
    print(f"  {_command()} serve --artifact {shlex.quote(str(out / 'artifact'))} --port {options.port}")
    for name in ("natural.png", "attacked.png"):
        print(f"  curl --data-binary @{shlex.quote(str(out / name))} {url}")
    if options.serve:
        load = functools.partial(load_artifact, out / "artifact")
        serve({"digits": ModelSource(artifact, load)}, read_settings(port=options.port, examples=out / "examples"))


def _command() -> str:
    """How the reader started this program, to be pasted: it may not be on the search path."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == "plumbline" and called.is_file() else "plumbline"


def _trained(data: ImageDataset, test: ImageDataset, folder: Path, seed: int) -> LoadedNetwork:
    recipe = Recipe(epochs=20, batch_size=64, crop_padding=2, flip=False, seed=seed)
    try:
        loaded = load_checkpoint(folder)
        if loaded.provenance.get("recipe") == asdict(recipe):
            return loaded
    except CheckpointError:
        pass  # none yet, or a damaged one: trained below
    torch.manual_seed(seed)
    loaded = load_network("resnet20", mean=(0.3,) * 3, std=(0.38,) * 3, num_classes=10, image_shape=data.image_shape)
    train(loaded.network, data, CrossEntropy(), recipe, folder, test=test)
    facts = {
        "network": "resnet20", "dataset": "digits", "recipe": asdict(recipe),
        "test_accuracy": accuracy(loaded.network, test), **provenance(),
    }  # fmt: skip
    save_checkpoint(folder, loaded.network, loaded.spec, data.classes, facts)
    return load_checkpoint(folder)


def _save_picture(path: Path, evaluation: Evaluation) -> None:
    judged = next(each for each in evaluation.detector_results if not each.baseline)
    draw_paths(evaluation, judged, title="Paths of digits through the residual blocks").savefig(path, dpi=120)


def _save_digits(out: Path, artifact: Artifact, data: ImageDataset, seed: int) -> None:
    """A natural digit and the same one attacked, as PNG files, so rounded to 8 bits."""
    attack = attack_of("fgm", epsilon=EPSILON, seed=seed)
    made = generate(
        artifact.pipeline.network, data.tensor(), data.labels, attack, cache=out / "attacks", progress=False
    )
    rounded = torch.from_numpy(made.images).mul(255).round().div_(255)
    natural = artifact.pipeline.score(data.tensor())
    attacked = artifact.pipeline.score(rounded)
    # One that shows what happens: passed as it is; attacked, taken for another digit and flagged. Else the first.
    telling = [
        not before.flagged and after.flagged and before.label == label != after.label
        for before, after, label in zip(natural, attacked, data.labels, strict=True)
    ]
    place = int(np.argmax(telling))
    (out / "examples").mkdir(exist_ok=True)
    others = [row for row in range(len(data)) if row != place][: EXAMPLES - 1]
    for number, row in enumerate([place, *others], start=1):
        for kind, image in (("natural", data.tensor()[row]), ("attacked", rounded[row])):
            picture = Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())
            picture.save(out / "examples" / f"{number}-{kind}.png")
            if row == place:
                picture.save(out / f"{kind}.png")
