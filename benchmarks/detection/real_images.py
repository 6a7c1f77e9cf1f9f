"""Runs a recipe on real images: fit, evaluate, then serve and send it natural and attacked PNG files.

    python -m benchmarks.detection.real_images benchmarks/recipes/cifar10-resnet20-fgm.toml --dataset npz:FILE

The network is trained first with --train (by `plumbline train`, with the words of the recipe's [train] table). Attacked
images and artifacts are kept under --work and used again. The figures go to benchmarks/results/<recipe>.json.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import threading
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attacks import generate
from benchmarks.common import write_result
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
from service.jobs.fit import fit
from service.report import as_table, write_evaluation_report


def main() -> None:
    """Run the recipe that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dataset", help="reference to use instead of the recipe's")
    parser.add_argument("--train-dataset", help="likewise, for --train")
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
    study = run_evaluation(plan_evaluation(EvaluationInputs(data=fresh, artifact=artifact), settings))
    figures = write_evaluation_report(options.work / f"{name}-report", study)
    print(as_table(figures))
    served = _served(artifact, options.work / name, fresh, recipe, options)
    print(json.dumps(served, indent=2))
    recorded = artifact.manifest["provenance"]
    payload = {
        "n": len(fresh), "seed": options.seed, "recipe": recipe, "network": recorded["network"],
        "blocks": len(artifact.pipeline.discovery.branches), "images": recorded["images"],
        "network_test_accuracy": recorded["trained"].get("test_accuracy"), "figures": figures, "served": served,
    }  # fmt: skip
    print(f"written to {write_result(name, payload, options.out)}")


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
    fit(
        data, loaded, out=out, detector="transport", attacks=words["attack"], epsilon=words["epsilon"],
        fpr=words["fpr"], split=words["split"], seed=options.seed, cache=options.work / "attacks",
        workers=options.workers,
    )  # fmt: skip
    return load_artifact(out, network_file=network if ".py:" in network else None)


def _served(
    artifact: Artifact, folder: Path, data: ImageDataset, recipe: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Flags of the server on natural and on attacked PNG files, beside those of the same pixels judged in one batch."""
    attack = attack_of(recipe["serve"]["attack"], epsilon=recipe["evaluate"]["epsilon"], seed=options.seed)
    made = generate(
        artifact.pipeline.network, data.tensor(), data.labels, attack, cache=options.work / "attacks", progress=False
    )
    count = min(recipe["serve"]["images"], len(data))
    # A PNG carries 8 bits: the attacked image is rounded, and judged again as it arrives.
    sets = {
        "natural": data.images[:count],
        "attacked": np.round(made.images[:count] * 255).astype(np.uint8),
    }
    results: dict[str, Any] = {"images": count, "attack": repr(attack)}
    from_file = artifact.spec.source == "file"
    with _Server(folder, recipe["train"]["network"] if from_file else None) as server:
        for name, pixels in sets.items():
            answers = [server.ask(image) for image in pixels]
            verdicts = artifact.pipeline.score(torch.from_numpy(pixels).float().div_(255))
            labels = data.labels[:count]
            wrong = np.array([answer["label"] for answer in answers]) != labels
            flagged = np.array([answer["flagged"] for answer in answers])
            successful = wrong & made.natural_correct[:count]
            results[name] = {
                "misclassified": float(wrong.mean()),
                "flagged": float(flagged.mean()),
                "flagged_of_successful": float(flagged[successful].mean()) if successful.any() else None,
                "same_class_and_flag_as_in_one_batch": all(
                    (a["label"], a["flagged"]) == (v.label, v.flagged) for a, v in zip(answers, verdicts, strict=True)
                ),
                "largest_difference_of_score": max(
                    abs(a["score"] - v.score) for a, v in zip(answers, verdicts, strict=True)
                ),
            }
    return results


class _Server:
    """`plumbline serve` in a process of its own on a free loopback port, ended by SIGTERM."""

    def __init__(self, artifact: Path, network: str | None) -> None:
        command = [sys.executable, "-m", "service.cli.main", "serve", "--artifact", str(artifact), "--port", "0"]
        command += ["--network", network] if network else []
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "_Server":
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"serving on (http://[\d.:]+)", line):
                self._url = found.group(1)
                threading.Thread(target=self._process.stderr.read, daemon=True).start()
                return self
        raise SystemExit("the server did not start")

    def ask(self, image: np.ndarray) -> dict[str, Any]:
        """The verdict on pixels uint8 ``(3, H, W)``, sent as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
        request = urllib.request.Request(
            f"{self._url}/v1/predict", buffer.getvalue(), {"Content-Type": "image/png"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            result: dict[str, Any] = json.load(response)["results"][0]
        return result

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


if __name__ == "__main__":
    main()
