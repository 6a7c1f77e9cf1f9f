"""Fit, evaluate and serve an artifact from a recipe; send natural and attacked PNG files to the server.

    python -m benchmarks detection.real_images benchmarks/recipes/cifar10-resnet20-fgm.toml --dataset npz:FILE

With --train the network is trained first, with the [train] table as options of `plumbline train`. Attacked images,
artifacts and the whole report stay under --work; the figures go to benchmarks/results/<recipe>.json.
"""

import argparse
import io
import json
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attacks.generation import generate
from benchmarks.common import write_result
from benchmarks.serving.load import plumbline_server
from detector.artifact import Artifact, load_artifact
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.loading import load_network
from service.cli.main import main as plumbline
from service.evaluation.planning.images import without_seen
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.running.run import run_evaluation
from service.inputs import attack_of
from service.jobs.fit import FitInputs, fit_detector
from service.report import as_table, write_evaluation_report
from service.requests.fit import FitOptions


def main() -> None:
    """Run the recipe that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dataset", help="reference that replaces the recipe's")
    parser.add_argument("--train-dataset", help="the same for --train")
    parser.add_argument("--train", action="store_true", help="train the network first and use it")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=1, help="processes that attack")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    options = parser.parse_args()
    recipe = tomllib.loads(options.recipe.read_text(encoding="utf-8"))
    name = options.recipe.stem
    network = recipe["fit"].get("network")
    if options.train or network is None:
        network = _train(recipe["train"], options, options.work / f"{name}-network")
    data = load_dataset(options.dataset or recipe["fit"]["dataset"], DatasetRequest(root=options.data_root))
    fit_data = data.limited(recipe["fit"].get("limit"), options.seed)
    artifact = _fit(recipe["fit"], network, fit_data, options.work / name, options)
    fresh = without_seen(artifact, data).limited(recipe["evaluate"].get("limit"), options.seed)
    settings = EvaluationSettings(
        test_on=tuple(recipe["evaluate"]["attacks"]), epsilon=recipe["evaluate"]["epsilon"], seed=options.seed,
        cache=options.work / "attacks", workers=options.workers,
    )  # fmt: skip
    evaluation = run_evaluation(plan_evaluation(EvaluationInputs(data=fresh, artifact=artifact), settings))
    figures = write_evaluation_report(options.work / f"{name}-report", evaluation)
    print(as_table(figures))
    recorded = artifact.manifest["provenance"]
    payload = {
        "n": len(fresh), "seed": options.seed, "recipe": recipe, "network": recorded["network"],
        "blocks": len(artifact.pipeline.discovery.branches), "images": recorded["images"], **_condensed(figures),
        "served": _served(artifact, options.work / name, fresh, recipe, options),
    }  # fmt: skip
    print(f"written to {write_result(name, payload, options.out)}")


def _condensed(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that the pages print, of the report's only run."""
    (rate,) = [entry["runs"][0] for entry in figures["false_positives"] if entry["nominal"] == 0.05]
    accuracies = {each["name"]: each["accuracy"] for each in figures["sets"]}
    attacks = []
    for entry in figures["results"]:
        if not entry["baseline"]:
            run = entry["runs"][0]
            found = {key: run["successful"][key] for key in ("auroc", "auroc_interval", "tpr_at_5_fpr", "flagged")}
            found |= {"name": entry["tested_on"], "seen": entry["seen"], "accuracy": accuracies[entry["tested_on"]]}
            attacks.append({**found, "paper_accuracy": run["paper"]["accuracy"]})
    rates = {"nominal": 0.05, "realised": rate["realised"], "interval": rate["interval"]}
    return {"natural": figures["natural"], "false_positives": rates, "attacks": attacks}


def _train(words: dict[str, Any], options: argparse.Namespace, out: Path) -> str:
    """The reference of the trained network."""
    command = ["train", "--out", str(out), "--data-root", str(options.data_root), "--seed", str(options.seed)]
    if options.train_dataset:
        words = {**words, "dataset": options.train_dataset, "test-dataset": options.dataset or words["dataset"]}
    for word, value in words.items():
        command += [f"--{word}"] if value is True else [f"--{word}", str(value)]
    if plumbline(command):
        raise SystemExit(f"training failed: plumbline {' '.join(command)}")
    return f"{words['network']}:{out}" if ".py:" in words["network"] else str(out)


def _fit(words: dict[str, Any], network: str, data: ImageDataset, out: Path, options: argparse.Namespace) -> Artifact:
    loaded = load_network(network, num_classes=len(data.classes), image_shape=data.image_shape)
    fit_options = FitOptions(
        out=out, detector="transport", attack=tuple(words["attack"]), epsilon=words["epsilon"], fpr=words["fpr"],
        split=words["split"], seed=options.seed, cache=options.work / "attacks", workers=options.workers,
    )  # fmt: skip
    fit_detector(FitInputs(data=data, loaded=loaded), fit_options)
    return load_artifact(out, network_file=network if ".py:" in network else None)


def _served(
    artifact: Artifact, folder: Path, data: ImageDataset, recipe: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Flags of the server on natural and attacked PNG files, compared with the pipeline on the same pixels."""
    attack = attack_of(recipe["serve"]["attack"], epsilon=recipe["evaluate"]["epsilon"], seed=options.seed)
    attacked = generate(
        artifact.pipeline.network, data.tensor(), data.labels, attack, cache=options.work / "attacks", progress=False
    )
    count = min(recipe["serve"]["images"], len(data))
    # A PNG file has 8 bits per value, so attacked images are rounded.
    sets = {
        "natural": data.images[:count],
        "attacked": np.round(attacked.images[:count] * 255).astype(np.uint8),
    }
    results: dict[str, Any] = {"images": count, "attack": repr(attack)}
    network = recipe["train"]["network"] if artifact.spec.source == "file" else None
    with plumbline_server(folder, network) as server:
        for name, pixels in sets.items():
            answers = [_predict(server.port, image) for image in pixels]
            verdicts = artifact.pipeline.score(torch.from_numpy(pixels).float().div_(255))
            pairs = list(zip(answers, verdicts, strict=True))
            wrong = np.array([answer["label"] for answer in answers]) != data.labels[:count]
            results[name] = {
                "misclassified": float(wrong.mean()),
                "flagged": float(np.mean([answer["flagged"] for answer in answers])),
                "same_class_and_flag_as_in_one_batch": all(
                    (answer["label"], answer["flagged"]) == (verdict.label, verdict.flagged)
                    for answer, verdict in pairs
                ),
                "largest_difference_of_score": max(abs(answer["score"] - verdict.score) for answer, verdict in pairs),
            }
    return results


def _predict(port: int, image: np.ndarray) -> dict[str, Any]:
    """The server's verdict on pixels uint8 ``(3, H, W)``, sent as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/predict", buffer.getvalue(), {"Content-Type": "image/png"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        result: dict[str, Any] = json.load(response)["results"][0]
    return result


if __name__ == "__main__":
    main()
