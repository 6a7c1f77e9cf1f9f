"""Detectors of other libraries as Plumbline detectors, in evaluations."""

from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from models.features import Features, extract_features
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.running.run import run_evaluation
from service.inputs import detector_of
from service.inputs.external import ExternalDetector
from service.jobs.fit import FitInputs, fit_detector
from service.requests.fit import FitOptions
from tests.service.small_evaluation import loaded_network, settings, small_digits

EXAMPLES = Path(__file__).parents[3] / "benchmarks" / "detectors" / "other_libraries.py"


def example(name: str) -> str:
    return f"external:{EXAMPLES}:{name}"


def test_an_evaluation_compares_them_with_ours(seed: int, tmp_path: Path) -> None:
    labels = [example(name) for name in ("energy", "knn:k=3", "binary_input:epochs=1")]
    plan = plan_evaluation(
        EvaluationInputs(data=small_digits(80), network=loaded_network(seed)),
        settings(detectors=tuple(labels), runs=1, cache=tmp_path, fpr=0.1),
    )
    first, again = (run_evaluation(plan, progress=False) for _ in range(2))
    results = {each.detector: each for each in first.detector_results}
    for name, scores in results["energy"].scores.items():
        assert np.allclose(results[labels[0]].scores[name], scores, rtol=1e-4, atol=1e-4)
    assert [results[label].fitted_on for label in labels] == [(), (), ("fgm",)]
    for label in labels:
        (other,) = [each for each in again.detector_results if each.detector == label]  # from the cache
        assert other.thresholds == results[label].thresholds


def written(tmp_path: Path, code: str) -> str:
    path = tmp_path / "own.py"
    path.write_text(code)
    return f"external:{path}:build"


def features_of(detector: ExternalDetector, seed: int) -> Features:
    data, network = small_digits(30), loaded_network(seed).network
    return extract_features(network, data.images, feature_requests=detector.feature_requests())


def built(text: str, seed: int) -> ExternalDetector:
    detector = detector_of(text, {"network": loaded_network(seed).network, "seed": seed})
    assert isinstance(detector, ExternalDetector)
    return detector


def test_an_object_of_arts_interface_gets_marked_images(tmp_path: Path, seed: int) -> None:
    code = """
import numpy as np

class Detector:
    def fit(self, x, y, batch_size=128, nb_epochs=20):
        self.bound = x[y == 1].mean()

    def detect(self, x, batch_size=128):
        means = x.mean(axis=(1, 2, 3))
        return {}, means > self.bound

def build(network):
    return Detector()
"""
    detector = built(written(tmp_path, code), seed)
    assert detector.needs_adversarial
    features = features_of(detector, seed)
    brighter = features._replace(requested={"images": features.requested["images"] * 0.5 + 0.5})
    detector.fit(features, brighter)
    means = features.requested["images"].mean(axis=(1, 2, 3))
    bound = brighter.requested["images"].mean()
    assert detector.score(features).tolist() == (means > bound).astype(float).tolist()
    assert detector.score(features.take(np.arange(0))).shape == (0,)


def test_fit_refuses_what_an_artifact_cannot_contain(tmp_path: Path, seed: int) -> None:
    inputs = FitInputs(data=small_digits(60), loaded=loaded_network(seed))
    with pytest.raises(InputError, match="evaluate it instead: plumbline evaluate"):
        fit_detector(inputs, FitOptions(out=tmp_path / "artifact", detector=example("energy"), fpr=0.1), progress=False)
    assert not (tmp_path / "artifact").exists()
    detector = built(example("energy"), seed)
    detector.fit(features_of(detector, seed))
    with pytest.raises(InputError, match="an artifact does not contain"):
        detector.state()


def test_the_network_stays_as_it_is(tmp_path: Path, seed: int) -> None:
    code = """
def build(network):
    from pytorch_ood.detector import EnergyBased
    for parameter in network.train().parameters():
        parameter.requires_grad_(True).data.zero_()
    return EnergyBased(network)
"""
    network = loaded_network(seed).network
    detector_of(written(tmp_path, code), {"network": network})
    assert not network.training
    assert not any(each.requires_grad for each in network.parameters())
    assert any(each.any() for each in network.parameters())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def build(network):\n    return 3", "expected a detector with fit and predict"),
        ("def build(network):\n    raise OSError('no file')", "callable failed with OSError: no file"),
        ("def other(network):\n    return 3", "has no callable 'build'"),
    ],
)
def test_a_callable_that_builds_no_detector_is_refused(code: str, message: str, tmp_path: Path, seed: int) -> None:
    with pytest.raises(InputError, match=message):
        built(written(tmp_path, code), seed)


def test_faults_of_the_detector_name_its_file(tmp_path: Path, seed: int) -> None:
    code = """
class Detector:
    def fit(self, loader):
        return self

    def predict(self, images):
        {}

def build(network):
    return Detector()
"""
    failing = built(written(tmp_path, code.format("raise ValueError('wrong size')")), seed)
    features = features_of(failing, seed)
    with pytest.raises(InputError, match=r"own.py:build: predict failed with ValueError: wrong size"):
        failing.fit(features).score(features)
    for returned, fault in (
        ("images.mean()", "one per image"),
        ("images.mean((1, 2, 3)) / 0", "expected finite scores, got inf"),
        ("['high'] * len(images)", "the result of predict failed with ValueError"),
    ):
        other = built(written(tmp_path, code.format(f"return {returned}")), seed)
        with pytest.raises(InputError, match=fault):
            other.fit(features).score(features)


@pytest.mark.parametrize("text", ["external", "external:own.py", "external:own:build"])
def test_a_reference_names_a_file_and_a_callable(text: str, seed: int) -> None:
    with pytest.raises(InputError, match=r"expected external:PATH\.py:CALLABLE"):
        built(text, seed)
