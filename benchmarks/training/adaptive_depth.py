"""Runge–Kutta networks of fixed and adaptive depth on few images of CIFAR-10 (the thesis, section 6.2.1).

    python -m benchmarks training.adaptive_depth --use cifar10=npz:cifar10-train.npz --threads 1

It compares blocks of order 3 with Euler blocks of as many parameters in total, outputs with their ensembles, adaptive
with fixed depth, and training with and without least action. All cases of an instance have the same seed, training
images and order. A tenth of the images is reserved for the errors of the blocks in every case, so that all cases train
on the same number of images. A finished case is not trained again, and an interrupted one continues after its last
epoch. The picture of depths and steps is in docs/images.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from benchmarks.common import arguments, write_result
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.files import write_atomically, write_json
from models.networks.runge_kutta import OUTPUTS, RungeKuttaNetwork, parse_steps
from models.normalization import Normalized
from models.objectives.base import build_objective
from models.training.depth import AdaptiveDepth, DepthRule
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.inputs import hold_out
from service.report.figures.svg import as_png

__all__ = ["CASES", "Case", "run"]

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "adaptive-depth.png"
TOLERANCE = 4.0
_TESTED = 2000
_MAX_BLOCKS = 4


@dataclass(frozen=True)
class Case:
    """One network and its training.

    Args:
        name: in tables.
        steps, forward_with, ensemble: options of `runge_kutta`.
        rule: of the depth, "halve"; None for a fixed depth.
        objective: a name of `models.objectives`.
    """

    name: str
    steps: str
    forward_with: str = "order2"
    ensemble: bool = False
    rule: Literal["halve"] | None = None
    objective: str = "cross_entropy"


CASES = (
    Case("Euler, 3 blocks a stage", "1,1,1/1,1,1/1,1,1", "euler"),
    Case("order 3, 1 block", "1/1/1", "order3"),
    Case("order 2, 1 block", "1/1/1"),
    Case("order 2, 1 block, trained as an ensemble", "1/1/1", ensemble=True),
    Case("order 2, 2 blocks of half the step", "0.5,0.5/0.5,0.5/0.5,0.5"),
    Case("adaptive from 1 block", "1/1/1", rule="halve"),
    Case("adaptive from 2 blocks", "0.5,0.5/0.5,0.5/0.5,0.5", rule="halve"),
    Case("order 2, 1 block, least action", "1/1/1", objective="least_action"),
    Case("adaptive from 1 block, least action", "1/1/1", rule="halve", objective="least_action"),
)


def run(
    case: Case, data: ImageDataset, held_out: ImageDataset, test: ImageDataset, recipe: Recipe, folder: Path,
    *, tolerance: float, every: int, filters: int,
) -> dict[str, Any]:  # fmt: skip
    """The figures of a case, as JSON values; from `folder` if it is finished.

    Args:
        case: the network and its training.
        data, held_out: images to train on, and to measure errors on.
        test: images to test on.
        recipe: of the training; its seed is also that of the weights.
        folder: of the case.
        tolerance, every: ε and S of the rule.
        filters: channels of the first stage.
    """
    path = folder / "figures.json"
    described = {
        "case": asdict(case), "recipe": asdict(recipe), "tolerance": tolerance, "every": every, "filters": filters,
        "data": [each.fingerprint() for each in (data, held_out, test)],
    }  # fmt: skip
    described = json.loads(json.dumps(described))
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8")))["described"] == described:
        return dict(found["figures"])
    torch.manual_seed(recipe.seed)
    inner = RungeKuttaNetwork(
        parse_steps(case.steps), len(data.classes), filters=filters, forward_with=case.forward_with,
        ensemble=case.ensemble, batch_normalization=True,
    )  # fmt: skip
    pixels = data.tensor()
    network = Normalized(inner, pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist())
    rule = DepthRule(tolerance=tolerance, every=every, max_blocks=_MAX_BLOCKS) if case.rule else None
    depth = AdaptiveDepth(rule, network, held_out) if rule else None
    parameters = _count(inner)
    rows = train(
        network, data, build_objective(case.objective), recipe, folder, test=test, test_every=recipe.epochs,
        described=described, depth=depth,
    )  # fmt: skip
    blocks = [row.get("blocks", sum(map(len, inner.step_sizes()))) for row in rows]
    figures = {
        "parameters": [parameters, _count(inner)],
        "accuracy": rows[-1]["test_accuracy"],
        "loss": rows[-1]["loss"],
        "blocks": blocks,
        "functions": sum(blocks) / len(blocks) * len(OUTPUTS[case.forward_with]),
        "history": depth.history if depth else [],
        "outputs": outputs(network, inner, test) if case.forward_with == "order2" and not rule else {},
    }
    write_json(path, {"described": described, "figures": figures})
    return figures


def outputs(network: Normalized, inner: RungeKuttaNetwork, test: ImageDataset) -> dict[str, float]:
    """Test accuracies with each output in all blocks, with ensembles in the last block, and of four whole passes.

    Args:
        network: images in [0, 1] → logits, with all four functions in every block.
        inner: the network in it; its outputs are restored.
        test: the images.
    """
    before = inner.forward_with, inner.ensemble
    found = {}
    for name in OUTPUTS:
        inner.use(name, ensemble=False)
        found[name] = accuracy(network, test)
    inner.use(before[0], ensemble=True)
    found["mean in the last block"] = accuracy(network, test)
    found["mean of four passes"] = accuracy(_Passes(network, inner), test)
    inner.use(before[0], ensemble=before[1])
    return found


class _Passes(nn.Module):
    """The classifier on the mean of the last embeddings of four passes, each with one output in all blocks."""

    def __init__(self, network: Normalized, inner: RungeKuttaNetwork) -> None:
        super().__init__()
        self.network, self.inner = network, inner

    def forward(self, images: Tensor) -> Tensor:
        embeddings: list[Tensor] = []
        hook = self.inner.stages.register_forward_hook(lambda _module, _inputs, output: embeddings.append(output))
        try:
            for name in OUTPUTS:
                self.inner.use(name, ensemble=False)
                self.network(images)
        finally:
            hook.remove()
        logits: Tensor = self.inner.head(torch.stack(embeddings).mean(0))
        return logits


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def draw(cases: Sequence[dict[str, Any]], epochs: int, path: Path) -> None:
    """Number of blocks and mean step of each stage by epoch, a column per adaptive case of the first instance."""
    adaptive = [case for case in cases if case["rule"]]
    figure = Figure(figsize=(3.5 * len(adaptive), 4.5), layout="constrained")
    axes = figure.subplots(2, len(adaptive), sharex=True, sharey="row", squeeze=False)
    for column, case in zip(axes.T, adaptive, strict=True):
        times = [0, *(entry["epoch"] for entry in case["instances"][0]["history"]), epochs]
        steps = [parse_steps(case["steps"]), *(entry["steps"] for entry in case["instances"][0]["history"])]
        for stage, dashes in enumerate(("-", "--", ":")[: len(steps[0])]):
            sizes = [each[stage] for each in [*steps, steps[-1]]]
            style: dict[str, Any] = {
                "where": "post",
                "linestyle": dashes,
                "linewidth": 2,
                "label": f"stage {stage + 1}",
            }
            column[0].step(times, [len(each) for each in sizes], **style)
            column[1].step(times, [float(np.mean(each)) for each in sizes], **style)
        column[0].set_title(case["name"], fontsize="medium")
        column[0].yaxis.set_major_locator(MaxNLocator(integer=True))
        column[1].set_xlabel("epoch")
        column[1].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("blocks")
    axes[1, 0].set_ylabel("mean step size")
    axes[0, 0].legend(fontsize="small")
    write_atomically(path, as_png(figure))


def main(argv: list[str] | None = None) -> None:
    """Train every case of every instance, and write the result after each instance."""
    parser = arguments(__doc__)
    parser.add_argument("--use", action="append", default=[], metavar="NAME=REFERENCE")
    parser.add_argument("--images", type=int, default=5000, help="with the held-out ones (default: %(default)s)")
    parser.add_argument("--side", type=int, default=16, help="of the images, in pixels (default: %(default)s)")
    parser.add_argument("--filters", type=int, default=16, help="of the first stage (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=1, help="epochs between changes (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="ε (default: %(default)s)")
    parser.add_argument("--instances", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="for finished cases (default: %(default)s)")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--image", type=Path, default=IMAGE, help="of depths and steps (default: in docs/images)")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    reference = dict(pair.split("=", 1) for pair in options.use).get("cifar10", "cifar10")
    pool = load_dataset(
        reference, DatasetRequest(split="train", root=options.data_root, resize=options.side, crop=options.side)
    )
    pool, test = hold_out(pool, _TESTED, options.seed)
    cases: list[dict[str, Any]] = [{**asdict(case), "instances": []} for case in CASES]
    for instance in range(options.instances):
        seed = 1000 * options.seed + instance
        data, held_out = hold_out(pool.limited(options.images, seed), options.images // 10, seed)
        recipe = Recipe(
            epochs=options.epochs, batch_size=100, learning_rate=0.1, crop_padding=2, gradient_clipping=5.0,
            precision="float32", seed=seed,
        )  # fmt: skip
        for number, case in enumerate(CASES):
            print(f"instance {instance}: {case.name}", flush=True)
            folder = options.work / "adaptive-depth" / f"{instance:02d}-{number:02d}"
            figures = run(
                case, data, held_out, test, recipe, folder,
                tolerance=options.tolerance, every=options.every, filters=options.filters,
            )  # fmt: skip
            cases[number]["instances"].append(figures)
        payload = {
            "n": len(test), "seed": options.seed, "instances": instance + 1, "images": len(data),
            "held_out": len(held_out), "side": options.side, "filters": options.filters, "epochs": options.epochs,
            "every": options.every, "tolerance": options.tolerance, "max_blocks": _MAX_BLOCKS, "cases": cases,
        }  # fmt: skip
        print(write_result("adaptive_depth", payload, options.out))
        draw(cases, options.epochs, options.image)


if __name__ == "__main__":
    main()
