"""`fit` and an evaluation with a companion; companions that do not fit are refused."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import service.jobs.companion as job
from attacks.common.digests import network_digest
from models.errors import InputError
from models.loading import LoadedNetwork, load_network
from service.adaptive.budgets import Budgets
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.running.run import run_evaluation
from service.inputs import load_companion
from service.jobs.fit import FitInputs, fit_detector
from service.requests.fit import FitOptions
from tests.service.small_evaluation import loaded_network, settings, small_digits


@pytest.fixture
def companion(seed: int) -> LoadedNetwork:
    """The network with changed weights, and about as accurate."""
    loaded = loaded_network(seed)
    network, generator = copy.deepcopy(loaded.network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.02 * weights.abs().mean() * torch.randn(weights.shape, generator=generator)
    return replace(loaded, network=network, reference="another-network")


@pytest.mark.parametrize("name", [None, "two_part:passes=3"])
def test_an_artifact_with_a_companion_is_fitted(
    name: str | None, companion: LoadedNetwork, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = FitOptions(
        out=tmp_path / "artifact", detector=name, classifier="none", seed=seed, engine="torch" if name else "auto"
    )
    inputs = FitInputs(data=small_digits(300), loaded=loaded_network(seed), companion=companion)
    result = fit_detector(inputs, options, progress=False)
    assert "3 passes of each image: image and shift1 through the network" in capsys.readouterr().err
    assert result.pipeline.detector.name == ("two_part" if name else "companion")
    assert set(result.pipeline.calibration.parts) == ({"attack", "outlier"} if name else set())
    assert result.provenance["companion"] == "resnet8 (another-network)"
    assert (tmp_path / "artifact" / "companion.safetensors").is_file()


def test_a_detector_with_a_companion_is_attacked_adaptively(companion: LoadedNetwork, seed: int) -> None:
    inputs = EvaluationInputs(data=small_digits(200), network=loaded_network(seed), companion=companion)
    chosen = settings(
        detectors=("two_part:passes=3:classifier=none",), runs=1, adaptive=("joint", "selective"), adaptive_images=2,
        adaptive_budgets=replace(Budgets.small(), descent_steps=4),
    )  # fmt: skip
    evaluation = run_evaluation(plan_evaluation(inputs, chosen), progress=False)
    assert evaluation.provenance["companion"] == "resnet8 (another-network)"
    assert evaluation.adaptive is not None
    (figures,) = evaluation.adaptive.values()
    assert figures["surrogate"] == "exact"


@pytest.mark.slow
def test_a_companion_is_trained_on_the_reference_images_and_resumes(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "EPOCHS", 3)
    monkeypatch.setattr(job, "MIN_IMAGES", 200)
    data, loaded = small_digits(400), loaded_network(seed)
    reference = data.take(np.arange(200, 400))
    options = FitOptions(
        out=tmp_path / "artifact", classifier="none", seed=seed, engine="torch", cache=tmp_path / "cache"
    )
    companion = job.train_companion(loaded, reference, options)
    error = capsys.readouterr().err
    assert "training a companion: 3 epochs of 190 images" in error
    assert "of 10 held-out reference images" in error
    inputs = FitInputs(data=data.take(np.arange(200)), reference=reference, loaded=loaded, train_companion=True)
    result = fit_detector(inputs, options, progress=False)
    assert "epoch 1/3" not in capsys.readouterr().err
    assert result.pipeline.companion is not None
    assert network_digest(result.pipeline.companion) == network_digest(companion.network)
    assert result.pipeline.detector.name == "companion"
    assert result.provenance["companion"] == "resnet20 (train)"


def test_a_companion_is_not_trained_on_too_few_images(tmp_path: Path, seed: int) -> None:
    data = small_digits(300)
    inputs = FitInputs(data=data.take(np.arange(200)), loaded=loaded_network(seed), train_companion=True)
    options = FitOptions(out=tmp_path, classifier="none")
    with pytest.raises(InputError, match="--companion train needs --reference"):
        fit_detector(inputs, options, progress=False)
    few = replace(inputs, reference=data.take(np.arange(200, 300)))
    with pytest.raises(InputError, match="expected at least 2000 images of --reference"):
        fit_detector(few, options, progress=False)
    with pytest.raises(InputError, match="--companion train has no effect on fusion"):
        fit_detector(few, replace(options, detector="fusion"), progress=False)


def test_companions_that_do_not_fit_are_refused(companion: LoadedNetwork, tmp_path: Path, seed: int) -> None:
    loaded = loaded_network(seed)
    inputs = FitInputs(data=small_digits(100), loaded=loaded, companion=companion)
    with pytest.raises(InputError, match="--companion another-network has no effect on fusion"):
        fit_detector(inputs, FitOptions(out=tmp_path, detector="fusion", classifier="none"), progress=False)
    options = FitOptions(out=tmp_path, detector="companion", classifier="none")
    with pytest.raises(InputError, match="give --companion"):
        fit_detector(replace(inputs, companion=None), options, progress=False)
    ours = load_network("pretrained:cifar10-resnet20")
    with pytest.raises(InputError, match="is the network itself"):
        load_companion("pretrained:cifar10-resnet20", ours)
    assert load_companion("pretrained:cifar10-resnet20-least-action", ours).spec.num_classes == 10
