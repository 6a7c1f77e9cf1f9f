"""The adapter to ART: attack, fit, detect, and an adaptive attack on classifier and detector."""

from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, FastGradientMethod, ProjectedGradientDescent
from art.defences.detector.evasion import EvasionDetector
from art.estimators.classification import DetectorClassifier, PyTorchClassifier
from numpy.typing import NDArray
from torch import nn

from models.errors import InputError, NotFittedError
from service.adapters.art import PlumblineDetector
from service.adaptive.budgets import Budgets
from tests.service.adapters.user import MEAN, STD, User
from tests.tiny_artifact import SIDE

Array = NDArray[np.float32]


def classifier_of(given: User, **changes: object) -> PyTorchClassifier:
    options = {"clip_values": (0.0, 1.0), "preprocessing": (np.array(MEAN), np.array(STD)), "device_type": "cpu"}
    return PyTorchClassifier(given.network, nn.CrossEntropyLoss(), (3, 16, 16), 10, **{**options, **changes})


@pytest.fixture(scope="module")
def classifier(given: User) -> PyTorchClassifier:
    return classifier_of(given)


def attacked(classifier: PyTorchClassifier, images: torch.Tensor) -> tuple[Array, Array]:
    natural = images.numpy().copy()
    return natural, FastGradientMethod(classifier, eps=0.2).generate(natural)


@pytest.fixture(scope="module")
def fitted(given: User, classifier: PyTorchClassifier) -> PlumblineDetector:
    natural, adversarial = attacked(classifier, given.images)
    detector = PlumblineDetector(classifier, detector="transport:num_trees=20", fpr=0.1)
    detector.fit(np.concatenate([natural, adversarial]), np.repeat([0, 1], len(natural)), nb_epochs=1)
    return detector


def energy(given: User, classifier: PyTorchClassifier) -> PlumblineDetector:
    """A detector whose score has a gradient, fitted on natural images alone."""
    detector = PlumblineDetector(classifier, detector="energy", fpr=0.1)
    detector.fit(given.images.numpy(), np.zeros(len(given.images)))
    return detector


def test_attack_fit_and_detect(given: User, classifier: PyTorchClassifier, fitted: PlumblineDetector) -> None:
    natural, adversarial = attacked(classifier, given.test_images)
    _, false_positives = fitted.detect(natural)
    report, found = fitted.detect(adversarial, batch_size=16)
    assert isinstance(fitted, EvasionDetector)
    assert found.mean() > false_positives.mean()
    assert fitted.pipeline is not None
    assert np.array_equal(found, report["scores"] >= fitted.pipeline.calibration.threshold)
    assert np.array_equal(found, report["p_values"] <= 0.1)


def test_one_hot_labels_are_the_same(given: User, classifier: PyTorchClassifier) -> None:
    """The detector learns from natural images alone, so others change nothing."""
    expected = energy(given, classifier).pipeline
    found = PlumblineDetector(**energy(given, classifier).get_params())
    labels = np.eye(2)[np.repeat([1, 0], [20, len(given.images)])]
    found.fit(np.concatenate([given.outliers[:20], given.images]), labels)
    assert expected is not None
    assert found.pipeline is not None
    assert np.array_equal(found.pipeline.calibration.scores, expected.calibration.scores)


@pytest.mark.parametrize("detector", ["transport:num_trees=20", "energy"])
def test_an_adaptive_attack_of_art_passes_the_surrogate(
    detector: str, given: User, classifier: PyTorchClassifier, fitted: PlumblineDetector
) -> None:
    if detector == "energy":
        fitted = energy(given, classifier)
    images, labels = given.images[:24].numpy(), given.labels[:24].numpy()
    system = fitted.surrogate(images, labels, joint=True, budgets=Budgets.small())
    agreement = (np.argmax(system.predict(images), axis=1) == 10) == fitted.detect(images)[1]
    assert agreement.mean() > 0.7
    # Targeted, since an untargeted attack could end in the class "flagged".
    start = images[:8]
    targets = (np.argmax(classifier.predict(start), axis=1) + 1) % 10
    attack = ProjectedGradientDescent(system, eps=0.5, eps_step=0.05, max_iter=20, targeted=True, verbose=False)
    found = attack.generate(start, np.eye(11)[targets])
    reached = np.argmax(system.predict(found), axis=1) == targets
    assert reached.any()
    assert (np.argmax(classifier.predict(found[reached]), axis=1) == targets[reached]).all()
    if detector == "energy":  # the margin is exact
        assert not fitted.detect(found[reached])[1].any()


def test_arts_detector_classifier_takes_the_surrogate(given: User, classifier: PyTorchClassifier) -> None:
    fitted = energy(given, classifier)
    images, labels = given.images[:2].numpy(), given.labels[:2].numpy()
    system = DetectorClassifier(classifier, fitted.surrogate(images, labels))
    joint = fitted.surrogate(images, labels, joint=True)
    assert np.array_equal(np.argmax(system.predict(images), axis=1), np.argmax(joint.predict(images), axis=1))
    found = DeepFool(system, max_iter=2, nb_grads=2, batch_size=2, verbose=False).generate(images)
    assert (found != images).any()


def test_an_artifact_detects_as_it_is(artifact: Path, seed: int) -> None:
    detector = PlumblineDetector.from_artifact(artifact)
    images = np.random.default_rng(seed).random((4, 3, SIDE, SIDE), dtype=np.float32)
    assert detector.pipeline is not None
    expected = detector.pipeline.score(torch.from_numpy(images))
    report, flagged = detector.detect(images)
    assert report["scores"].tolist() == [each.score for each in expected]
    assert flagged.tolist() == [each.flagged for each in expected]
    assert (np.argmax(detector.classifier.predict(images), axis=1) == [each.label for each in expected]).all()


def test_faults_name_the_remedy(given: User, classifier: PyTorchClassifier) -> None:
    detector = PlumblineDetector(classifier)
    with pytest.raises(NotFittedError, match="call fit first"):
        detector.detect(given.images.numpy())
    with pytest.raises(InputError, match="1 for adversarial and 0 for natural"):
        detector.fit(given.images.numpy(), given.labels.numpy())
    with pytest.raises(InputError, match=r"clip_values=\(0, 1\)"):
        PlumblineDetector(classifier_of(given, clip_values=(0, 255)))
