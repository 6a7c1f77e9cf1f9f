"""`plumbline geometry decodings`: the blocks of two networks, shown by an autoencoder's decoder.

An autoencoder is trained on the images, and its encoder frozen. Nine blocks with a classifier are trained behind the
encoder twice: with cross-entropy, and with another objective. The decoder then shows the output of every block.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.geometry.autoencoder import Autoencoder, LatentResNet, pretrain, reconstruction_error
from models.options import check_number
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from service.geometry.decodings.decoding import Decoded, decode_blocks
from service.geometry.decodings.figures import draw_changes, draw_decodings
from service.geometry.decodings.page import decodings_page
from service.geometry.files import write_report
from service.inputs import hold_out, label, objective_of
from service.jsonable import as_json
from service.provenance import provenance
from service.requests.geometry import DecodingsRequest

__all__ = ["one_of_each", "run_decodings", "split", "write_decodings"]


def write_decodings(request: DecodingsRequest, *, progress: bool = True) -> Path:
    """Run the experiment and write report.json, report.html and a PNG file of each picture; the path of the page.

    Raises:
        InputError: an option out of its range, or a folder that is not writable.
    """
    report, pictures = run_decodings(request, progress=progress)
    write_report(request.out, report, decodings_page(report, pictures), pictures)
    return request.out / "report.html"


def run_decodings(request: DecodingsRequest, *, progress: bool = False) -> tuple[dict[str, Any], dict[str, Figure]]:
    """The figures of the experiment, as strict JSON values, and the pictures by name.

    Raises:
        InputError: an option out of its range.
    """
    # 1. Validate options before training.
    objectives = [(text, objective_of(text, {})) for text in ("cross_entropy", request.objective)]
    recipe = Recipe(
        epochs=request.epochs, batch_size=request.batch_size, learning_rate=request.learning_rate, crop_padding=0,
        flip=False, weight_decay=1e-4, seed=request.seed,
    )  # fmt: skip
    source = DatasetRequest(
        root=request.data_root, download=request.download, split="train", max_pixels=request.max_pixels
    )
    data = load_dataset(request.dataset, source).limited(request.limit, request.seed)
    training, held_out = split(data, request.held_out, request.seed)

    # 2. Train the autoencoder, then a network per objective behind its encoder.
    torch.manual_seed(request.seed)
    autoencoder = Autoencoder(request.channels)
    errors = pretrain(autoencoder, training, epochs=request.autoencoder_epochs, seed=request.seed, progress=progress)
    networks: list[tuple[dict[str, Any], Decoded]] = []
    for text, objective in objectives:
        network = LatentResNet(
            autoencoder.encoder, request.channels, num_classes=len(data.classes), blocks=request.blocks,
            seed=request.seed,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            rows = train(network, training, objective, recipe, Path(folder))
        decoded = decode_blocks(autoencoder, network, held_out)
        own = {"objective": text, "accuracy": accuracy(network, held_out), "loss": rows[-1]["loss"], **decoded.figures}
        networks.append((own, decoded))

    # 3. Report.
    all_figures = [own for own, _ in networks]
    figures = {
        "dataset": label(request.dataset),
        "dataset_sha256": data.fingerprint(),
        "training_images": len(training),
        "n": len(held_out),
        "seed": request.seed,
        "autoencoder": {
            "latent": list(networks[0][1].latent_shape),
            "epochs": request.autoencoder_epochs,
            "training_error": errors[-1],
            "error": reconstruction_error(autoencoder, held_out),
        },
        "recipe": asdict(recipe),
        "networks": all_figures,
        **provenance(),
    }
    report, _ = as_json(figures, "decodings")
    return report, {
        "decodings": draw_decodings(autoencoder, networks, held_out, one_of_each(held_out, request.images)),
        "changes": draw_changes(all_figures),
    }


def split(data: ImageDataset, held_out: float, seed: int) -> tuple[ImageDataset, ImageDataset]:
    """The images to train on, and a random share of them to test on.

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
    return hold_out(data, count, seed)


def one_of_each(data: ImageDataset, count: int) -> np.ndarray:
    """Numbers of at most `count` images: the first of every class, then the second, and so on."""
    occurrence = np.zeros(len(data), dtype=np.int64)
    for wanted in range(len(data.classes)):
        mine = data.labels == wanted
        occurrence[mine] = np.arange(mine.sum())
    chosen: np.ndarray = np.lexsort((data.labels, occurrence))[:count]
    return chosen
