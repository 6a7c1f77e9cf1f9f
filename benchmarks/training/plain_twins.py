"""Plain networks beside residual ones by weight decay: accuracy, line shape and optimal transport score.

    python -m benchmarks training.plain_twins --use mnist=npz:mnist-test.npz --threads 1
    python -m benchmarks training.plain_twins --network convolutional10 --use cifar10=npz:cifar10-train.npz \\
        --use cifar10-test=npz:cifar10-test.npz --limit 5000

The experiment of Gai and Zhang's sections 5.2 and 5.3 on their networks of one dimension. Both networks of a weight
decay have the same initial weights, images and order, and both are measured block by block. The line-shape score is
also measured before every epoch. Recipe, images and epochs are ours: the papers do not state them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import arguments, write_result
from benchmarks.training.instances import Images
from models.datasets.base import ImageDataset
from models.geometry.line_shape import line_shape
from models.geometry.paths import recording_paths, stages
from models.normalization import Normalized
from models.objectives.cross_entropy import CrossEntropy
from models.registry import NETWORKS
from models.residuals import Discovery, discover, evaluation_mode
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.geometry.networks.measuring import measure
from service.geometry.networks.settings import Disturbance, GeometrySettings

__all__ = ["run"]

BLOCKS = "blocks.*"
DECAYS = (0.0, 1e-4, 5e-4, 1e-3, 5e-3)
_DATA = {"fully_connected5": "mnist", "convolutional10": "cifar10"}
_TESTED = 1000
_TRACKED = 200  # images of the line-shape score before every epoch
_DISTURBANCES = (Disturbance("noise", 0.1), Disturbance("fgm", 0.03))


class _Tracked(CrossEntropy):
    """Cross-entropy, with the mean line-shape score before every epoch in `scores`."""

    def __init__(self, network: nn.Module, discovery: Discovery, images: Tensor) -> None:
        super().__init__()
        self._network, self._discovery, self._images = network, discovery, images
        self._scores: list[float] = []

    @property
    def scores(self) -> list[float]:
        return self._scores

    def begin_epoch(self, epoch: int) -> None:
        (stage,) = stages(self._discovery)
        with evaluation_mode(self._network), torch.no_grad():
            with recording_paths(self._network, self._discovery) as paths:
                self._network(self._images)
            self._scores.append(float(line_shape(paths.points(stage)).score.nanmean()))


def run(
    name: str, pool: ImageDataset, test: ImageDataset, decays: Sequence[float], *, epochs: int, seed: int, **sizes: int
) -> list[dict[str, Any]]:
    """A row per weight decay and kind of network, as JSON values.

    Args:
        name: of the network.
        pool: training images.
        test: images that are measured.
        decays: γ, the recipe's weight decay.
        epochs: of each training.
        seed: of weights, orders and the choice of images.
        sizes: options of the network, such as `blocks`.
    """
    rows = []
    for decay in decays:
        for residual in (False, True):
            torch.manual_seed(seed)
            built = NETWORKS.load(name)(num_classes=len(pool.classes), residual=residual, **sizes)
            network = Normalized(built, (0.5,) * 3, (0.5,) * 3)
            discovery = discover(network, pool.image_shape, BLOCKS)
            objective = _Tracked(network, discovery, test.limited(_TRACKED, seed).tensor())
            recipe = Recipe(
                epochs=epochs, batch_size=min(100, len(pool)), learning_rate=0.02, weight_decay=decay, seed=seed,
                crop_padding=0 if name == "fully_connected5" else 4, flip=name != "fully_connected5",
                initialization="kaiming", gradient_clipping=1.0, precision="float32",
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                train(network, pool, objective, recipe, Path(folder))
            settings = GeometrySettings(disturbances=_DISTURBANCES, blocks=BLOCKS, seed=seed)
            figures = measure(name, network, test, settings, progress=False).figures
            (stage,) = figures["stages"]
            rows.append(
                {
                    "decay": decay, "residual": residual, "train_accuracy": accuracy(network, pool),
                    "accuracy": figures["accuracy"], "score": stage["transport"]["score"],
                    "line_shape_ratio": stage["line_shape_ratio"]["mean"],
                    "line_shape_score": stage["line_shape_score"]["mean"], "shares": stage["shares"],
                    "tracks": stage["tracks"],
                    "line_shape_score_before_epochs": objective.scores,
                    "disturbed": {
                        each["name"]: {"accuracy": each["accuracy"], "variation_rate": each["variation_rate"]}
                        for each in figures["disturbed"]
                    },
                }
            )  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> None:
    """Train and measure every network, and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--use", action="append", default=[], metavar="NAME=REFERENCE")
    parser.add_argument("--network", choices=_DATA, default="fully_connected5")
    parser.add_argument("--limit", type=int, help="training images (default: all but those to test on)")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    data, used = _DATA[options.network], dict(pair.split("=", 1) for pair in options.use)
    images = Images(
        data, used.get(data, data), used.get(f"{data}-test", None if data in used else data), _TESTED,
        options.data_root,
    )  # fmt: skip
    pool, test = images.load()
    pool = pool.limited(options.limit, options.seed)
    rows = run(options.network, pool, test, DECAYS, epochs=options.epochs, seed=options.seed)
    payload = {
        "n": len(test), "seed": options.seed, "network": options.network, "dataset": data, "images": len(pool),
        "epochs": options.epochs, "rows": rows,
    }  # fmt: skip
    print(write_result(f"plain_twins_{data}", payload, options.out))


if __name__ == "__main__":
    main()
