"""The adapter to pytorch-ood, in the loop of its benchmarks."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_ood.api import RequiresFittingException
from pytorch_ood.benchmark import Benchmark
from pytorch_ood.detector import MaxSoftmax
from sklearn.metrics import roc_auc_score
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from models.errors import ImageError, InputError
from models.images.stored import StoredImages
from service.adapters.images import loaded_images, unnormalized
from service.adapters.pytorch_ood import PlumblineDetector
from tests.service.adapters.user import MEAN, STD, User, normalized
from tests.tiny_artifact import SIDE


class Digits(Benchmark):  # type: ignore[misc]
    """Digits against noise, as one of pytorch-ood's own benchmarks."""

    ood_names = ("noise",)

    def __init__(self, given: User) -> None:
        self._train = TensorDataset(normalized(given.images), given.labels)
        self._known = TensorDataset(normalized(given.test_images), given.test_labels)
        self._unknown = TensorDataset(normalized(given.outliers), torch.full((len(given.outliers),), -1))

    def train_set(self) -> "Dataset[tuple[torch.Tensor, ...]]":
        return self._train

    def test_sets(self, known: bool = True, unknown: bool = True) -> "list[Dataset[tuple[torch.Tensor, ...]]]":
        return [ConcatDataset([*([self._known] if known else []), *([self._unknown] if unknown else [])])]


@pytest.fixture(scope="module")
def benchmark(given: User) -> Digits:
    return Digits(given)


@pytest.fixture(scope="module")
def fitted(given: User, benchmark: Digits) -> PlumblineDetector:
    detector = PlumblineDetector(given.network, mean=MEAN, std=STD, fpr=0.1)
    return detector.fit(DataLoader(benchmark.train_set(), batch_size=64))


def test_a_benchmark_evaluates_it_beside_another_detector(
    given: User, benchmark: Digits, fitted: PlumblineDetector
) -> None:
    rows = benchmark.evaluate([fitted, MaxSoftmax(given.network)], loader_kwargs={"batch_size": 64})
    ours, theirs = rows
    assert (ours["Detector"], theirs["Detector"], ours["Dataset"]) == ("PlumblineDetector", "MaxSoftmax", "noise")
    assert fitted.pipeline is not None
    scores = [each.score for each in fitted.pipeline.score(torch.cat([given.test_images, given.outliers]))]
    expected = roc_auc_score(np.repeat([0, 1], [len(given.test_images), len(given.outliers)]), scores)
    assert ours["AUROC"] == pytest.approx(expected, abs=1e-6)


def test_scores_are_those_of_the_pipeline_on_the_pixels(given: User, fitted: PlumblineDetector) -> None:
    assert fitted.pipeline is not None
    expected = [each.score for each in fitted.pipeline.score(given.test_images)]
    scores = fitted.predict(normalized(given.test_images))
    assert scores.tolist() == expected
    assert fitted(normalized(given.outliers)).mean() > scores.mean()
    assert fitted.predict(normalized(given.test_images[:0])).shape == (0,)


def test_the_users_network_stays_as_it_is(given: User, benchmark: Digits) -> None:
    network = copy.deepcopy(given.network).train().requires_grad_(True)
    detector = PlumblineDetector(network, mean=MEAN, std=STD, detector="energy")
    detector.fit(DataLoader(benchmark.train_set(), batch_size=64)).to("cpu").predict(normalized(given.outliers[:4]))
    assert network.training
    assert all(each.requires_grad for each in network.parameters())


def test_outliers_are_fitted_on_by_detectors_that_learn_from_some(given: User, benchmark: Digits) -> None:
    train = ConcatDataset([benchmark.train_set(), Subset(benchmark.test_sets(known=False)[0], range(70))])
    detector = PlumblineDetector(given.network, mean=MEAN, std=STD, detector="transport:num_trees=10")
    with pytest.raises(InputError, match="learns from adversarial images"):
        detector.fit(DataLoader(benchmark.train_set(), batch_size=64))
    detector.fit(DataLoader(train, batch_size=64))
    natural, noise = (detector.predict(normalized(each)) for each in (given.test_images, given.outliers[70:]))
    assert noise.mean() > natural.mean()


def test_faults_name_the_remedy(given: User, fitted: PlumblineDetector) -> None:
    with pytest.raises(ImageError, match="pass the mean and std of the transform"):
        fitted.predict(given.outliers * 255)
    with pytest.raises(RequiresFittingException):
        PlumblineDetector(given.network, mean=MEAN, std=STD).predict(normalized(given.outliers))


def test_loaders_that_cannot_be_fitted_on_are_refused(given: User) -> None:
    detector, images = PlumblineDetector(given.network, mean=MEAN, std=STD), normalized(given.images[:4])
    sizes: list[tuple[torch.Tensor, int]] = [(images[0], 0), (images[1, :, 1:], 1)]
    faults: list[tuple[Dataset[Any], str]] = [
        (TensorDataset(images), "without labels; add them"),
        (sizes, r"images of one shape, \(3, 16, 16\), got \(3, 15, 16\); resize"),  # type: ignore[list-item]
        (TensorDataset(images, torch.full((4,), -1)), "expected natural images to fit on, got none"),
    ]
    for data, fault in faults:
        with pytest.raises((ImageError, InputError), match=fault):
            detector.fit(DataLoader(data))


def test_an_artifact_gives_the_scores_that_plumbline_gives(artifact: Path, seed: int) -> None:
    detector = PlumblineDetector.from_artifact(artifact, mean=MEAN, std=STD)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 3, SIDE, SIDE))
    images = torch.from_numpy(pixels).float() / 255
    assert detector.pipeline is not None
    expected = [each.score for each in detector.pipeline.score_in_batches(images)]
    assert detector.fit(DataLoader(TensorDataset(images))).predict(normalized(images)).tolist() == expected


def test_eight_bit_pixels_survive_a_normalisation(seed: int) -> None:
    pixels = torch.arange(256).float() / 255
    images = torch.stack([pixels, pixels.flip(0), pixels]).view(1, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shape = (3, 1, 1)
    there = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    assert torch.equal(unnormalized(there, mean, std), images)
    between = torch.full((1, 3, 2, 2), 0.5)
    assert torch.allclose(unnormalized(between, (0.0,), (1.0,)), between)


def test_a_limited_sample_of_a_loader(given: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.images.stored.IN_MEMORY", 0)
    loader = DataLoader(TensorDataset(normalized(given.images), given.labels), batch_size=16)
    images, labels = loaded_images(loader, MEAN, STD, limit=40, seed=1)
    assert isinstance(images, StoredImages)
    assert images.shape == (40, 3, 16, 16)
    rows = [(given.images == torch.from_numpy(image)).flatten(1).all(1).nonzero()[0, 0] for image in images]
    assert torch.equal(given.labels[torch.stack(rows)], torch.from_numpy(labels))
    again, _ = loaded_images(loader, MEAN, STD, limit=40, seed=2)
    assert not np.array_equal(np.asarray(images), np.asarray(again))
    own = DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)
    assert np.array_equal(np.asarray(loaded_images(own, MEAN, STD, limit=40, seed=1)[0]), np.asarray(images))
