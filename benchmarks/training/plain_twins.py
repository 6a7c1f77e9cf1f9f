"""Plain networks beside residual ones by weight decay: accuracy, line shape and optimal transport score.

    python -m benchmarks training.plain_twins --use mnist=npz:mnist-test.npz --threads 1
    python -m benchmarks training.plain_twins --network convolutional10 --use cifar10=npz:cifar10-train.npz --limit 5000
    python -m benchmarks training.plain_twins --filters 100,300,1000 --blocks 3,5,10 --decays 0.01 \\
        --use mnist=npz:mnist-test.npz --limit 2000

The experiment of Gai and Zhang's sections 5.2 to 5.4 on their networks. Both networks of a weight decay and a size have
the same initial weights, images and order, and both are measured block by block; figures of networks of several
dimensions are means over these. The line-shape score is also measured before every epoch; a run over several sizes
draws it. Recipe, images and epochs are ours: the papers do not state them.
"""

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import arguments, rounded, write_result
from benchmarks.training.instances import Images
from models.datasets.base import ImageDataset
from models.files import write_atomically
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
from service.geometry.networks.summaries import mean
from service.report.figures.svg import as_png

__all__ = ["draw", "run"]

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "plain-twins-sizes.png"
BLOCKS = "blocks.*"
_DATA = {"fully_connected5": "mnist", "convolutional10": "cifar10", "convolutional20": "cifar10"}
_RESET = 0.3  # of the units of a middle block, the most important ones of each class
_TRACKED = 200  # images of the line-shape score before every epoch
_DISTURBANCES = (Disturbance("noise", 0.1), Disturbance("fgm", 0.03))


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the defined figures; None if there is none, as of a network that maps all images to one point."""
    return mean(np.array(values, dtype=np.float64))


class _Tracked(CrossEntropy):
    """Cross-entropy, with the mean line-shape score before every epoch in `scores`."""

    def __init__(self, network: nn.Module, discovery: Discovery, images: Tensor) -> None:
        super().__init__()
        self._network, self._discovery, self._images = network, discovery, images
        self._scores: list[float | None] = []

    @property
    def scores(self) -> list[float | None]:
        return self._scores

    def begin_epoch(self, epoch: int) -> None:
        with evaluation_mode(self._network), torch.no_grad():
            with recording_paths(self._network, self._discovery) as paths:
                self._network(self._images)
            found = [line_shape(paths.points(stage)).score.nanmean().item() for stage in stages(self._discovery)]
            self._scores.append(_mean(found))


def run(
    name: str, pool: ImageDataset, test: ImageDataset, decays: Sequence[float], sizes: Sequence[Mapping[str, int]],
    *, epochs: int, batch_size: int, seed: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row per weight decay, size and kind of network, as JSON values.

    Args:
        name: of the network.
        pool: training images.
        test: images that are measured.
        decays: γ, the recipe's weight decay.
        sizes: options of the network, such as `blocks` and `filters`; one entry without options for its own size.
        epochs, batch_size: of each training.
        seed: of weights, orders and the choice of images.
    """
    for decay, size, residual in itertools.product(decays, sizes, (False, True)):
        print(f"γ = {decay:g}, {'residual' if residual else 'plain'}", *size.items(), flush=True)
        torch.manual_seed(seed)
        built = NETWORKS.load(name)(num_classes=len(pool.classes), residual=residual, **size)
        network = Normalized(built, (0.5,) * 3, (0.5,) * 3)
        discovery = discover(network, pool.image_shape, BLOCKS)
        objective = _Tracked(network, discovery, test.limited(_TRACKED, seed).tensor())
        convolutional = name != "fully_connected5"
        recipe = Recipe(
            epochs=epochs, batch_size=min(batch_size, len(pool)), learning_rate=0.05, weight_decay=decay, seed=seed,
            crop_padding=4 if convolutional else 0, flip=convolutional, initialization="kaiming",
            gradient_clipping=1.0, precision="float32",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            train(network, pool, objective, recipe, Path(folder))
        settings = GeometrySettings(disturbances=_DISTURBANCES, blocks=BLOCKS, seed=seed)
        figures = measure(name, network, test, settings, progress=False).figures
        dimensions = [
            {
                "score": each["transport"]["score"], "line_shape_ratio": each["line_shape_ratio"]["mean"],
                "line_shape_score": each["line_shape_score"]["mean"],
            }
            for each in figures["stages"]
        ]  # fmt: skip
        resets = [each["accuracy"][each["shares"].index(_RESET)] for each in figures["important_units"]]
        row = {
            "decay": decay, "residual": residual, **size, "train_accuracy": accuracy(network, pool),
            "accuracy": figures["accuracy"], "dimensions": dimensions,
            **{key: _mean([each[key] for each in dimensions]) for key in dimensions[0]},
            "shares": [share for each in figures["stages"] for share in each["shares"]],
            "tracks": {"below_bound": _mean([each["tracks"]["below_bound"] for each in figures["stages"]])},
            "line_shape_score_before_epochs": objective.scores,
            "disturbed": {
                each["name"]: {"accuracy": each["accuracy"], "variation_rate": each["variation_rate"]}
                for each in figures["disturbed"]
            }
            | {f"{_RESET:.0%} of units reset": {"accuracy": _mean(resets)}},
        }  # fmt: skip
        yield rounded(row, 4)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Line-shape score before every epoch and after the last, a panel per kind of network, a line per size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 4), layout="constrained")
    widths = sorted({row["filters"] for row in rows})
    depths = sorted({row["blocks"] for row in rows})
    for axis, residual in zip(figure.subplots(1, 2), (False, True), strict=True):
        for row in (row for row in rows if row["residual"] == residual):
            axis.plot(
                np.array([*row["line_shape_score_before_epochs"], row["line_shape_score"]], dtype=np.float64),
                color=f"C{widths.index(row['filters'])}", linestyle=("-", "--", ":")[depths.index(row["blocks"]) % 3],
                label=f"{row['filters']:,} × {row['blocks']}",
            )  # fmt: skip
        axis.set_title("residual" if residual else "plain", fontsize="medium")
        axis.set_xlabel("epochs")
        axis.set_ylim(bottom=1)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylabel("line-shape score")
    axis.legend(title="width × blocks", fontsize="small")
    write_atomically(path, as_png(figure))


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


def _sizes(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    """Train and measure every network; write the result after each one."""
    parser = arguments(__doc__)
    parser.add_argument("--use", action="append", default=[], metavar="NAME=REFERENCE")
    parser.add_argument("--network", choices=_DATA, default="fully_connected5")
    parser.add_argument("--decays", type=_numbers, default="0,0.001,0.01,0.1", help="default: %(default)s")
    parser.add_argument("--filters", type=_sizes, help="widths or channels, separated by commas; needs --blocks")
    parser.add_argument("--blocks", type=_sizes, help="depths, separated by commas; needs --filters")
    parser.add_argument("--limit", type=int, help="training images (default: all but those to test on)")
    parser.add_argument("--tested", type=int, default=1000, help="images to test on (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--image", type=Path, default=IMAGE, help="of several sizes (default: in docs/images)")
    options = parser.parse_args(argv)
    if (options.filters is None) != (options.blocks is None):
        parser.error("give --filters and --blocks together")
    if options.threads:
        torch.set_num_threads(options.threads)
    data, used = _DATA[options.network], dict(pair.split("=", 1) for pair in options.use)
    images = Images(
        data, used.get(data, data), used.get(f"{data}-test", None if data in used else data), options.tested,
        options.data_root,
    )  # fmt: skip
    pool, test = images.load()
    pool = pool.limited(options.limit, options.seed)
    sizes: list[dict[str, int]] = [{}]
    name = f"plain_twins_{data}" + ("_four_dimensions" if options.network == "convolutional20" else "")
    if options.filters:
        sizes = [{"blocks": depth, "filters": width} for depth in options.blocks for width in options.filters]
        name += "_sizes"
    rows: list[dict[str, Any]] = []
    for row in run(
        options.network, pool, test, options.decays, sizes,
        epochs=options.epochs, batch_size=options.batch_size, seed=options.seed,
    ):  # fmt: skip
        rows.append(row)
        payload = {
            "n": len(test), "seed": options.seed, "network": options.network, "dataset": data, "images": len(pool),
            "epochs": options.epochs, "batch_size": options.batch_size, "rows": rows,
        }  # fmt: skip
        path = write_result(name, payload, options.out)
    print(path)
    if options.filters:
        draw(rows, options.image)


if __name__ == "__main__":
    main()
