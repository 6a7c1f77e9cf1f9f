"""Kernel density and dropout uncertainty: against scikit-learn, definitions, and numbers that are to stay."""

import copy

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference
from torch import Tensor, nn

from detector.detectors.kernel_density import KernelDensity, log_density, most_likely_bandwidth
from detector.features.dropout import DropoutUncertainty
from models.errors import InputError, NetworkError
from models.features import FeatureExtractor, ForwardPass, Head, extract_features
from models.residuals import Discovery, discover
from tests.detector.embedded import clusters, embedded, waves

SHAPE = (3, 16, 16)


def test_log_density_is_scikit_learns(rng: np.random.Generator) -> None:
    bank, queries = rng.normal(size=(40, 5)), rng.normal(size=(9, 5))
    theirs = Reference(bandwidth=0.6).fit(bank).score_samples(queries)
    constant = -5 / 2 * np.log(2 * np.pi * 0.6**2)
    np.testing.assert_allclose(log_density(queries, bank, 0.6) + constant, theirs, rtol=1e-9)


def test_density_is_that_of_the_predicted_class(rng: np.random.Generator) -> None:
    embeddings, labels = clusters(rng, 60)
    queries = clusters(rng, 12)[0]
    predicted = rng.integers(3, size=12)
    detector = KernelDensity(bandwidth=2.0, classifier="none").prepare(embedded(embeddings), labels)
    features = embedded(queries, predicted)
    score = detector.fit(features).score(features)
    for row in range(12):
        bank = embeddings[labels == predicted[row], -1].astype(np.float32)
        assert score[row] == pytest.approx(-log_density(queries[row : row + 1, -1].astype(np.float32), bank, 2.0)[0])


@pytest.mark.parametrize("few", [0, 4])
def test_a_class_with_few_reference_images_uses_those_of_all_classes(rng: np.random.Generator, few: int) -> None:
    embeddings, labels = clusters(rng, 40)
    kept = (labels != 1) | (np.cumsum(labels == 1) <= few)
    detector = KernelDensity(bandwidth=2.0, classifier="none").prepare(embedded(embeddings[kept]), labels[kept])
    features = embedded(embeddings[:1], np.array([1]))
    all_embeddings = embeddings[kept][np.argsort(labels[kept], kind="stable"), -1].astype(np.float32)
    expected = -log_density(embeddings[:1, -1].astype(np.float32), all_embeddings, 2.0)
    np.testing.assert_allclose(detector.fit(features).score(features), expected, rtol=1e-12)


def test_far_images_keep_their_order() -> None:
    far = np.array([[1e4], [1e5], [1e15]])
    densities = log_density(far, np.zeros((3, 1)), 0.1)
    assert np.isfinite(densities).all()
    assert (np.diff(densities) < 0).all()


def test_the_bandwidth_is_the_most_likely_one(rng: np.random.Generator) -> None:
    """Against scikit-learn, leaving one image of its class out at a time."""
    classes = [rng.normal(size=(30, 2)), 5 + rng.normal(size=(25, 2))]
    found = most_likely_bandwidth([*classes, np.zeros((1, 2))])

    def likelihood(width: float) -> float:
        return sum(
            float(Reference(bandwidth=width).fit(np.delete(bank, row, axis=0)).score(bank[row : row + 1]))
            for bank in classes
            for row in range(len(bank))
        )

    step = 100 ** (1 / 40)
    best = likelihood(found)
    assert best >= likelihood(found * step)
    assert best >= likelihood(found / step)
    # Zeros behind a narrow embedding are no dimensions.
    assert most_likely_bandwidth([np.pad(bank, ((0, 0), (0, 9))) for bank in classes]) == most_likely_bandwidth(classes)


@pytest.mark.parametrize("classes", [[np.ones((1, 2)), np.zeros((1, 2))], [np.ones((9, 2))]])
def test_bandwidth_is_one_without_distances(classes: list[np.ndarray]) -> None:
    assert most_likely_bandwidth(classes) == 1.0


def test_scores_equal_stored_scores() -> None:
    detector = KernelDensity(classifier="none").prepare(embedded(waves(40, 2, 3, 0.7)), np.arange(40) % 3)
    features = embedded(1.5 * waves(4, 2, 3, 1.3), np.array([0, 1, 2, 0]))
    assert detector.bandwidth_ == pytest.approx(STORED_BANDWIDTH, rel=1e-6)
    np.testing.assert_allclose(detector.fit(features).score(features), STORED_SCORES, rtol=1e-6)


STORED_BANDWIDTH = 0.534998949280973
STORED_SCORES = [4.206230073908631, 2.401927602915833, 6.314586147090983, 4.750774876339916]


def head_pass(logits_of: nn.Linear, inputs: Tensor) -> ForwardPass:
    output = logits_of(inputs)
    return ForwardPass(
        torch.zeros(len(inputs), *SHAPE),
        output,
        torch.zeros(len(inputs), 2),
        logits_of,
        Discovery((), ()),
        head=Head(logits_of, inputs, output),
    )


def test_uncertainty_is_the_variance_of_the_softmax(seed: int) -> None:
    torch.manual_seed(seed)
    head, inputs = nn.Linear(6, 4), torch.randn(5, 6)
    found = DropoutUncertainty(rate=0.3, passes=9, seed=4)(head_pass(head, inputs))
    generator = torch.Generator().manual_seed(4)
    p = torch.stack(
        [
            torch.softmax(
                (inputs * (torch.rand(1, 6, generator=generator) >= 0.3) / 0.7) @ head.weight.T + head.bias, 1
            )
            for _ in range(9)
        ]
    )
    # Feinman et al.: (1/T Σ pᵀp) − p̄ᵀp̄
    expected = (p * p).sum(dim=2).mean(dim=0) - (p.mean(dim=0) ** 2).sum(dim=1)
    assert found.shape == (5, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-6)


def test_no_dropout_is_no_uncertainty(seed: int) -> None:
    torch.manual_seed(seed)
    found = DropoutUncertainty(rate=0.0, passes=3)(head_pass(nn.Linear(6, 4), torch.randn(5, 6)))
    torch.testing.assert_close(found, torch.zeros(5, 1))


def test_uncertainty_equals_stored_values() -> None:
    head = nn.Linear(6, 3)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(waves(3, 1, 6, 0.7)[:, 0]))
        head.bias.zero_()
        inputs = torch.from_numpy(2 * waves(3, 1, 6, 1.3)[:, 0]).float()
        found = DropoutUncertainty(passes=20)(head_pass(head, inputs))
    np.testing.assert_allclose(found[:, 0], STORED_UNCERTAINTY, rtol=1e-5)


STORED_UNCERTAINTY = [0.289019, 0.214382, 0.232421]


class Rescaled(nn.Module):
    """A network whose logits are not what its last layer gives out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = 1.0 * self.network(images) + 0.0
        return logits * 1.5


def test_the_network_runs_again_if_its_last_layer_is_not_the_logits(
    tiny_network: nn.Module, rng: np.random.Generator
) -> None:
    images = torch.from_numpy(rng.random((4, *SHAPE), dtype=np.float32))
    feature_request = DropoutUncertainty(passes=5)
    rescaled = Rescaled(tiny_network).eval()
    head = next(module for module in tiny_network.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        plain = FeatureExtractor(tiny_network, discover(tiny_network, SHAPE), None, [feature_request]).forward(images)
        assert plain.head is not None
        assert plain.head.module is head
        direct = feature_request(plain)
        head.weight.mul_(1 / 1.5)
        head.bias.mul_(1 / 1.5)
        wrapped = FeatureExtractor(rescaled, discover(rescaled, SHAPE), None, [feature_request]).forward(images)
        torch.testing.assert_close(feature_request(wrapped), direct, rtol=1e-3, atol=1e-8)
    assert not any(module._forward_pre_hooks for module in rescaled.modules())


class TwoLayers(nn.Module):
    """The last layer is a module that already ran before, or a copy of it."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        layer = nn.Conv2d(3, 3, 1)
        self.layers = nn.ModuleList([layer, layer if shared else copy.deepcopy(layer)])

    def forward(self, images: Tensor) -> Tensor:
        images = images + self.layers[0](images).tanh()
        return self.layers[1](images).mean(dim=(2, 3))


def test_dropout_is_before_the_last_call_of_a_layer_that_runs_several_times(seed: int) -> None:
    feature_request, found = DropoutUncertainty(passes=5), []
    for shared in (True, False):
        torch.manual_seed(seed)
        network, images = TwoLayers(shared=shared).eval(), torch.rand(4, *SHAPE)
        with torch.no_grad():
            extractor = FeatureExtractor(network, discover(network, SHAPE), None, [feature_request])
            found.append(feature_request(extractor.forward(images)))
    assert torch.equal(*found)


class WithoutLayers(nn.Module):
    """Residual blocks and a head of nothing but functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.1 * torch.ones(3, 3, 1, 1)) for _ in range(2)])

    def forward(self, images: Tensor) -> Tensor:
        for weight in self.weights:
            images = images + nn.functional.conv2d(images, weight).tanh()
        return images.mean(dim=(2, 3))


def test_a_network_without_a_last_layer_is_refused(rng: np.random.Generator) -> None:
    images = rng.random((2, *SHAPE), dtype=np.float32)
    with pytest.raises(NetworkError, match="last layer"):
        extract_features(WithoutLayers().eval(), images, feature_requests=[DropoutUncertainty()])


def test_uncertainty_is_measured_in_the_same_pass_whatever_the_batch(
    tiny_network: nn.Module, rng: np.random.Generator
) -> None:
    images = rng.random((7, *SHAPE), dtype=np.float32)
    feature_requests = KernelDensity(passes=4).feature_requests()
    name = feature_requests[1].name
    whole = extract_features(tiny_network, images, feature_requests=feature_requests).requested[name]
    split = extract_features(tiny_network, images, feature_requests=feature_requests, batch_size=2).requested[name]
    np.testing.assert_allclose(split, whole, rtol=1e-3, atol=1e-9)
    assert (whole > 0).all()


@pytest.mark.parametrize(
    "parameters",
    [{"bandwidth": 0.0}, {"bandwidth": "wide"}, {"dropout_rate": 1.0}, {"dropout_rate": -0.1}, {"passes": 0}],
)
def test_options_that_cannot_be_used_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(parameters))):
        KernelDensity(**parameters).prepare(embedded(np.ones((30, 1, 2))))  # type: ignore[arg-type]


@pytest.mark.parametrize("starts", [[0, 5, 4, 60], [1, 20, 40, 60], [0, 20, 40, 61]])
def test_damaged_starts_are_refused(rng: np.random.Generator, starts: list[int]) -> None:
    embeddings, labels = clusters(rng, 60)
    detector = KernelDensity(classifier="none").prepare(embedded(embeddings), labels).fit(embedded(embeddings))
    state = detector.state() | {"reference.starts": np.array(starts)}
    with pytest.raises(InputError, match="starts"):
        KernelDensity.from_state(detector.parameters(), state)
    with pytest.raises(InputError, match="bandwidth"):
        KernelDensity.from_state(detector.parameters(), detector.state() | {"reference.bandwidth": np.zeros(1)})
