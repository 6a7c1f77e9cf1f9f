"""A real artifact of a tiny network, fitted and saved as users do it, in a second or two."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from detector.artifact import save_artifact
from detector.calibration import Calibration
from detector.detectors.transport import Transport
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.engines import EngineSource, Precision
from models.engines.choice import choose_engine
from models.features import extract_features
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec, build_network, load_network
from models.residuals import StatisticsSpec, discover

__all__ = ["CLASSES", "SIDE", "SPEC", "save_tiny_artifact"]

SIDE = 16
CLASSES = ("circle", "square", "triangle", "star")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
SPEC = NetworkSpec(
    "plumbline", "resnet8", {"num_classes": len(CLASSES)}, len(CLASSES), (3, SIDE, SIDE), MEAN, STD
)  # fmt: skip


def save_tiny_artifact(
    folder: Path,
    seed: int,
    network_file: str | None = None,
    *,
    engine: str = "torch",
    precision: Precision = "float32",
) -> Path:
    """`folder`, holding an artifact for which smooth random images are natural and the same with noise adversarial.

    Args:
        network_file: ``PATH.py:CALLABLE`` of a network for images (3, 16, 16) and 4 classes, instead of a resnet8.
        engine, precision: what runs the network.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((300, 3, 4, 4), dtype=np.float32))
    natural = torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")
    adversarial = (natural + torch.from_numpy(rng.normal(0, 0.1, natural.shape).astype(np.float32))).clamp(0, 1)
    if network_file is None:
        spec, network = SPEC, build_network(SPEC)
    else:
        loaded = load_network(network_file, mean=MEAN, std=STD, num_classes=len(CLASSES), image_shape=(3, SIDE, SIDE))
        spec, network = loaded.spec, loaded.network
    discovery = discover(network, spec.image_shape)
    source = EngineSource(
        network=network, discovery=discovery, statistics_spec=StatisticsSpec(), image_shape=spec.image_shape,
        pooled=False,
    )  # fmt: skip
    chosen = choose_engine(engine, precision, source, natural[:40]).engine
    extract = partial(extract_features, network, discovery=discovery, engine=chosen)
    features = extract(natural)
    fitted, held_out = features.take(np.arange(200)), features.take(np.arange(200, 300))
    others = extract(adversarial)
    detector = Transport(num_trees=20, seed=seed).fit(fitted, others, fitted.predicted)
    pipeline = Pipeline(
        network=network,
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(held_out), 0.05),
        classes=CLASSES,
        band=natural_band(fitted.statistics),
        image_shape=spec.image_shape,
        engine=chosen,
    )
    preprocessing = Preprocessing(None, None, SIDE, SIDE)
    save_artifact(folder, pipeline, spec=spec, preprocessing=preprocessing, provenance={"seed": seed})
    return folder
