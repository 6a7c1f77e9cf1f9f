"""`plumbline geometry decodings`: what each block makes of an image, shown by an autoencoder's decoder (Figures 28-34).

An autoencoder is trained on the images, its encoder frozen, and nine blocks with a classifier are trained behind it
twice: with cross-entropy alone, and with another objective. The decoder then shows the output of every block.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.geometry.autoencoder import Autoencoder, LatentResNet, pretrain, reconstruction_error
from models.options import check_count, check_number
from models.training.loop import Recipe, accuracy, train
from service.geometry.decoded import Decoded, decode_blocks
from service.geometry.decodings_page import as_page, draw_changes, draw_decodings
from service.geometry.writing import write_files
from service.inputs import label, objective_of
from service.jsonable import as_json
from service.provenance import provenance

__all__ = ["add_arguments", "run", "study"]


def add_arguments(parser: ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--dataset", default="digits", metavar="D", help="a name, npz:FILE or images:FOLDER")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="of downloaded data sets")
    parser.add_argument("--download", action="store_true", help="fetch a missing data set")
    parser.add_argument("--limit", type=int, metavar="N", help="a random N of the images, held-out ones among them")
    parser.add_argument("--held-out", type=float, default=0.2, metavar="R", help="share to test on (default: 0.2)")
    parser.add_argument(
        "--objective", default="least_action:initial_weight=5:increase=1:update_every=5", metavar="O",
        help="beside cross-entropy (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=10, metavar="E", help="of each network (default: 10)")
    parser.add_argument("--autoencoder-epochs", type=int, default=10, metavar="E", help="default: 10")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="default: 64")
    parser.add_argument("--learning-rate", type=float, default=0.05, metavar="R", help="default: 0.05")
    parser.add_argument("--channels", type=int, default=16, metavar="C", help="of the latent space (default: 16)")
    parser.add_argument("--blocks", type=int, default=9, metavar="M", help="default: 9")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="held-out images to draw (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder of report.json and .html")
    parser.set_defaults(resumes=False)


def run(options: Namespace) -> None:
    """Train, decode and draw, then write `options.out`: report.json, report.html and decodings.png.

    Raises:
        InputError: an option out of its range, or a folder that cannot be written to.
    """
    found, pictures = study(options, progress=True)
    write_files(options.out, found, as_page(found, pictures), pictures)
    print(options.out / "report.html")


def study(options: Namespace, *, progress: bool = False) -> tuple[dict[str, Any], dict[str, Figure]]:
    """What was found, as strict JSON values, and the pictures by name.

    Raises:
        InputError: an option out of its range.
    """
    check_count("seed", options.seed, least=0, most=2**31 - 1)
    check_count("images", options.images)
    objectives = {"cross_entropy": "cross_entropy", "objective": options.objective}
    made = {name: objective_of(text, {}) for name, text in objectives.items()}
    recipe = Recipe(
        epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate, crop_padding=0,
        flip=False, weight_decay=1e-4, seed=options.seed,
    )  # fmt: skip
    request = DatasetRequest(root=options.data_root, download=options.download, split="train")
    data = load_dataset(options.dataset, request).limited(options.limit, options.seed)
    training, held_out = split(data, options.held_out, options.seed)

    torch.manual_seed(options.seed)
    autoencoder = Autoencoder(options.channels)
    errors = pretrain(autoencoder, training, epochs=options.autoencoder_epochs, seed=options.seed, progress=progress)
    networks: list[dict[str, Any]] = []
    drawn: dict[str, Decoded] = {}
    for name, text in objectives.items():
        network = LatentResNet(
            autoencoder.encoder, options.channels, num_classes=len(data.classes), blocks=options.blocks,
            seed=options.seed,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            rows = train(network, training, made[name], recipe, Path(folder))
        decoded = decode_blocks(autoencoder, network, held_out)
        drawn[name] = decoded
        networks.append(
            {
                "objective": text,
                "accuracy": accuracy(network, held_out),
                "loss": rows[-1]["loss"],
                **decoded.figures,
            }
        )
    found = {
        "dataset": label(options.dataset),
        "dataset_sha256": data.fingerprint(),
        "training_images": len(training),
        "n": len(held_out),
        "seed": options.seed,
        "autoencoder": {
            "latent": list(next(iter(drawn.values())).latent_shape),
            "epochs": options.autoencoder_epochs,
            "training_error": errors[-1],
            "error": reconstruction_error(autoencoder, held_out),
        },
        "recipe": asdict(recipe),
        "networks": networks,
        **provenance(),
    }
    shown = one_of_each(held_out, options.images)
    plain, _ = as_json(found, "the study")
    return plain, {
        "decodings": draw_decodings(autoencoder, list(zip(networks, drawn.values(), strict=True)), held_out, shown),
        "changes": draw_changes(networks),
    }


def split(data: ImageDataset, held_out: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """A random share of the images to test on, and the rest to train on, which come first.

    Raises:
        InputError: the share leaves no image on one side.
    """
    check_number("held-out", held_out, above=0)
    count = round(held_out * len(data))
    if not 0 < count < len(data):
        raise InputError(
            f"expected a held-out share that leaves images on both sides of {len(data)}, got {held_out}; give "
            "--held-out a number between 0 and 1"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def one_of_each(data: ImageDataset, count: int) -> np.ndarray:
    """Numbers of at most `count` images: the first of every class, then the second, and so on."""
    occurrence = np.zeros(len(data), dtype=np.int64)
    for wanted in range(len(data.classes)):
        mine = data.labels == wanted
        occurrence[mine] = np.arange(mine.sum())
    chosen: np.ndarray = np.lexsort((data.labels, occurrence))[:count]
    return chosen
