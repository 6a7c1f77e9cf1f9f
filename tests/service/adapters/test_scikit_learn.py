"""The adapter to scikit-learn: its checks, `clone` and `Pipeline`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from models.errors import InputError
from service.adapters.scikit_learn import PlumblineDetector
from tests.service.adapters.user import MEAN, STD, User
from tests.tiny_artifact import SIDE

# The other checks of scikit-learn fit on tables that are no images.
CHECKS = (
    "estimator_cloneable",
    "estimator_repr",
    "no_attributes_set_in_init",
    "parameters_default_constructible",
    "get_params_invariance",
    "set_params",
    "do_not_raise_errors_in_init_or_set_params",
    "mixin_order",
    "valid_tag_types",
    "estimator_tags_renamed",
)


@pytest.fixture(scope="module")
def estimator(given: User) -> PlumblineDetector:
    return PlumblineDetector(given.network, mean=MEAN, std=STD, detector="energy", fpr=0.1)


@pytest.fixture(scope="module")
def fitted(given: User, estimator: PlumblineDetector) -> PlumblineDetector:
    return clone(estimator).fit(given.images.numpy(), given.labels.numpy())


@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_estimators(name: str) -> None:
    getattr(estimator_checks, f"check_{name}")("PlumblineDetector", PlumblineDetector())


def test_decisions_are_those_of_the_pipeline(given: User, fitted: PlumblineDetector) -> None:
    images = torch.cat([given.test_images, given.outliers])
    expected = fitted.pipeline_.score(images)
    decisions = fitted.decision_function(images.numpy())
    assert (np.argsort(decisions, kind="stable") == np.argsort([-each.score for each in expected], kind="stable")).all()
    assert fitted.predict(images.numpy()).tolist() == [-1 if each.flagged else 1 for each in expected]
    assert ((decisions < 0) == [each.flagged for each in expected]).all()


def test_clones_are_unfitted_and_equal(given: User, fitted: PlumblineDetector) -> None:
    other = clone(fitted)
    with pytest.raises(NotFittedError):
        other.predict(given.test_images.numpy())
    again = other.fit(given.images.numpy(), given.labels.numpy())
    images = given.test_images.numpy()
    assert np.array_equal(again.decision_function(images), fitted.decision_function(images))


def test_a_step_of_a_pipeline_with_flattened_images(
    given: User, estimator: PlumblineDetector, fitted: PlumblineDetector
) -> None:
    bytes_to_pixels = FunctionTransformer(lambda table: table / 255)
    pipeline = make_pipeline(bytes_to_pixels, clone(estimator).set_params(image_shape=(3, 16, 16)))
    train, test = ((each.numpy() * 255).round().reshape(len(each), -1) for each in (given.images, given.test_images))
    found = pipeline.fit(train, given.labels.numpy()).predict(test)
    assert pipeline[-1].n_features_in_ == 768
    assert np.array_equal(found, fitted.predict(given.test_images.numpy()))


def test_an_artifact_is_fitted(artifact: Path, seed: int) -> None:
    estimator = PlumblineDetector.from_artifact(artifact)
    images = np.random.default_rng(seed).random((4, 3, SIDE, SIDE), dtype=np.float32)
    flags = [each.flagged for each in estimator.pipeline_.score(torch.from_numpy(images))]
    assert ((estimator.predict(images) == -1) == flags).all()


def test_faults_name_the_remedy(given: User, estimator: PlumblineDetector) -> None:
    with pytest.raises(InputError, match="pass image_shape"):
        clone(estimator).fit(given.images.numpy().reshape(len(given.images), -1))
    with pytest.raises(InputError, match="use from_artifact"):
        clone(estimator).set_params(detector="companion").fit(given.images.numpy())
    with pytest.raises(InputError, match="one class per image, got 5 for 300 images"):
        clone(estimator).fit(given.images.numpy(), given.labels[:5].numpy())
    with pytest.raises(InputError, match="pass network="):
        PlumblineDetector().fit(given.images.numpy())
