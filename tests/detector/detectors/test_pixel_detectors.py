"""nss, fourier and pixel_statistics on images and a real network: their columns and their detection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from detector.artifact import load_artifact, save_artifact
from detector.base.columns import ColumnsDetector
from detector.calibration import Calibration
from detector.detectors.fourier import Fourier
from detector.detectors.nss import NSS
from detector.detectors.pixel_statistics import PixelStatistics
from detector.features.image_statistics import nss, pixel_statistics, spectrum
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.errors import InputError
from models.features import Features, ForwardPass, extract_features
from models.loading import build_network
from models.residuals import Discovery, StatisticsSpec, discover, record_residues
from tests.detector.conftest import CLASSES, PREPROCESSING, SPEC, noisy, smooth_images

QUICK: dict[str, Any] = {"num_trees": 20, "minimum_per_class": 20}
DETECTORS = [
    pytest.param(NSS, {}, id="nss"),
    pytest.param(Fourier, {"of": "both"}, id="fourier-input"),
    pytest.param(Fourier, {"layers": "all"}, id="fourier-all"),
    pytest.param(PixelStatistics, {}, id="pixel_statistics"),
]


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(SPEC)


def eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def photographs(count: int, generator: torch.Generator) -> Tensor:
    """Images on the grid of 8 bits, smooth but for a little noise, as a camera's are."""
    smooth = smooth_images(count, generator)
    return eight_bit((smooth + 0.02 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1))


def auroc(detector: ColumnsDetector, network: nn.Module, natural: Tensor, adversarial: Tensor) -> float:
    """Of the second half of both sets, by the detector fitted on the first."""
    parts = [
        extract_features(network, images, feature_requests=detector.feature_requests())
        for images in (natural, adversarial)
    ]
    half = len(natural) // 2
    detector.fit(*(part.take(np.arange(half)) for part in parts))
    scores = [detector.score(part.take(np.arange(half, len(natural)))) for part in parts]
    return float(roc_auc_score(np.repeat([0, 1], [len(score) for score in scores]), np.concatenate(scores)))


# --- columns


def requested(detector: ColumnsDetector, network: nn.Module, images: Tensor) -> np.ndarray:
    (feature_request,) = detector.feature_requests()
    array = extract_features(network, images, feature_requests=[feature_request], batch_size=4).requested[
        feature_request.name
    ]
    return np.asarray(array)


def test_measurements_are_the_pure_functions(network: nn.Module, images: Tensor) -> None:
    for detector, wanted in (
        (NSS(), nss(images)),
        (PixelStatistics(rounded=False), pixel_statistics(images)),
        (PixelStatistics(), pixel_statistics((images * 255).round() / 255)),
        (Fourier(), spectrum(images)),
        (Fourier(of="phase"), spectrum(images, "phase")),
        (Fourier(of="both"), spectrum(images, "both")),
    ):
        assert np.array_equal(requested(detector, network, images), wanted.numpy())


def test_layers_are_the_blocks_embeddings(network: nn.Module, images: Tensor) -> None:
    with (
        torch.no_grad(),
        record_residues(network, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True) as recording,
    ):
        network(images)
    each = [spectrum(embedding, average=True).numpy() for embedding in recording.embeddings]
    assert len(each) == 3
    assert all(part.shape[1] <= 544 for part in each)
    for layers, wanted in (("all", each), ("stages", each), ((2, 0), [each[2], each[0]])):
        columns = requested(Fourier(layers=layers), network, images)  # type: ignore[arg-type]
        assert np.allclose(columns, np.hstack(wanted), rtol=1e-4, atol=1e-4)


def test_a_block_that_is_not_there_is_refused(network: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match="3 blocks"):
        requested(Fourier(layers=[3]), network, images)


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        pytest.param((2, 5, 7, 6), 7 * 4, id="channels second"),
        pytest.param((2, 7, 7, 5), 7 * 4, id="channels last"),
        pytest.param((2, 49, 5), 7 * 4, id="tokens of a grid"),
        pytest.param((2, 50, 5), 7 * 4, id="a class token before a grid"),
        pytest.param((2, 20, 5), 11, id="tokens of no grid"),
        pytest.param((2, 9), 5, id="no places"),
    ],
)
def test_embeddings_of_every_shape_have_maps(shape: tuple[int, ...], columns: int) -> None:
    (feature_request,) = Fourier(layers="all").feature_requests()
    images, zeros, network = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3), nn.Identity()
    context = ForwardPass(images, zeros, zeros, network, Discovery((), ()), (torch.ones(shape),))
    assert feature_request(context).shape == (2, columns)


def test_equal_names_mean_equal_contents() -> None:
    every = [NSS(), PixelStatistics(), *(Fourier(of=of) for of in ("magnitude", "phase", "both"))]  # type: ignore[arg-type]
    every += [Fourier(layers=layers) for layers in ("all", "stages", [0], [0, 1], [1, 0])]  # type: ignore[arg-type]
    names = [feature_request.name for detector in every for feature_request in detector.feature_requests()]
    assert len(set(names)) == len(every)
    assert (
        Fourier(layers=[0, 1], num_trees=3).feature_requests()[0].name
        == Fourier(layers=(0, 1)).feature_requests()[0].name
    )


@pytest.mark.parametrize(
    "options",
    [{"of": "power"}, {"of": ["phase"]}, {"layers": "some"}, {"layers": []}, {"layers": [-1]}, {"layers": [0, 0]},
     {"layers": [True]}, {"layers": 1}, {"layers": [10**9]}, {"classifier": "none"}],
)  # fmt: skip
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], rng: np.random.Generator) -> None:
    features = Features(np.zeros((4, 2), dtype=np.float32), np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(InputError, match="expected"):
        Fourier(**options).fit(features, features)


# --- detection


@pytest.mark.parametrize(("kind", "options"), DETECTORS)
def test_noise_is_found(
    kind: type[ColumnsDetector], options: dict[str, Any], network: nn.Module, generator: torch.Generator
) -> None:
    natural = photographs(120, generator)
    assert auroc(kind(**options, **QUICK), network, natural, eight_bit(noisy(natural, generator))) > 0.95


@pytest.mark.parametrize(("kind", "options"), DETECTORS)
def test_equal_sets_have_an_auroc_of_one_half(
    kind: type[ColumnsDetector], options: dict[str, Any], network: nn.Module, generator: torch.Generator
) -> None:
    """Two sets from one source: the AUROC of a coin has a standard deviation of 0.04 here."""
    natural, others = photographs(200, generator), photographs(200, generator)
    assert 0.25 < auroc(kind(**options, **QUICK), network, natural, others) < 0.75


def test_pixels_between_grey_levels_are_detected(network: nn.Module, generator: torch.Generator) -> None:
    """A change of a tenth of a grey level, which has no effect on the network."""
    natural = photographs(100, generator)
    moved = (natural + 0.1 / 255 * torch.randn(natural.shape, generator=generator)).clamp(0, 1)
    assert auroc(PixelStatistics(rounded=False, **QUICK), network, natural, moved) == 1
    # Rounded, the moved images are the natural ones again.
    detector = PixelStatistics(**QUICK)
    auroc(detector, network, natural, natural.clamp(min=0.5))  # fitted on a change that it can detect
    rounded = extract_features(network, moved, feature_requests=detector.feature_requests())
    again = extract_features(network, natural, feature_requests=detector.feature_requests())
    same = (eight_bit(moved) == natural).flatten(1).all(dim=1).numpy()
    assert same.mean() > 0.9
    assert np.array_equal(detector.score(rounded)[same], detector.score(again)[same])


def test_pixels_clipped_in_another_space_are_detected(network: nn.Module, generator: torch.Generator) -> None:
    """Whatever is darker than the mean raised to it: what [0, 1] does to images of mean 0 and standard deviation 1."""
    natural = photographs(100, generator)
    assert auroc(PixelStatistics(**QUICK), network, natural, natural.clamp(min=0.5)) == 1


# --- in service


@pytest.mark.parametrize(("kind", "options"), DETECTORS)
def test_artifacts_carry_them(
    kind: type[ColumnsDetector], options: dict[str, Any], network: nn.Module, generator: torch.Generator, tmp_path: Path
) -> None:
    detector = kind(**options, **QUICK)
    discovery = discover(network, SPEC.image_shape)
    images = photographs(80, generator)
    natural, adversarial = (
        extract_features(network, some, discovery=discovery, feature_requests=detector.feature_requests())
        for some in (images, noisy(images, generator))
    )
    detector.fit(natural.take(np.arange(40)), adversarial.take(np.arange(40)))
    pipeline = Pipeline(
        network=network,
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(natural.take(np.arange(40, 80))), 0.1),
        classes=CLASSES,
        band=natural_band(natural.statistics),
        image_shape=SPEC.image_shape,
    )
    save_artifact(tmp_path / "artifact", pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance={})
    loaded = load_artifact(tmp_path / "artifact").pipeline
    mixed = torch.cat([images[40:46], noisy(images[46:52], generator)])
    verdicts = loaded.score(mixed)
    assert verdicts == pipeline.score(mixed)
    assert sum(verdict.flagged for verdict in verdicts[6:]) > sum(verdict.flagged for verdict in verdicts[:6])
