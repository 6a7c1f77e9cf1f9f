"""Features of many images: independent of the batch size; invalid images and outputs are refused."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError, NetworkError
from models.features import Features, ForwardPass, Needs, extract_features
from models.images.views import IMAGE, View
from models.residuals import StatisticsSpec, discover, record_residues

SHAPE = (3, 16, 16)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.random((11, *SHAPE), dtype=np.float32)


def test_features_are_the_networks_logits_and_the_recorders_statistics(
    tiny_network: nn.Module, images: np.ndarray
) -> None:
    discovery = discover(tiny_network, SHAPE)
    features = extract_features(tiny_network, images, discovery=discovery, statistics_spec=StatisticsSpec(directions=2))
    with (
        torch.no_grad(),
        record_residues(tiny_network, discovery, statistics_spec=StatisticsSpec(directions=2)) as recording,
    ):
        logits = tiny_network(torch.from_numpy(images))
    assert features.logits.dtype == features.statistics.dtype == np.float32
    np.testing.assert_allclose(features.logits, logits.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features.statistics, recording.statistics.numpy(), rtol=1e-4, atol=1e-6)
    assert features.predicted.dtype == np.int64
    assert np.array_equal(features.predicted, logits.argmax(1).numpy())


@pytest.mark.parametrize("batch_size", [1, 4, 11, 256])
def test_the_batch_size_does_not_matter(tiny_network: nn.Module, images: np.ndarray, batch_size: int) -> None:
    whole = extract_features(tiny_network, images)
    split = extract_features(tiny_network, torch.from_numpy(images), batch_size=batch_size)
    np.testing.assert_allclose(split.logits, whole.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(split.statistics, whole.statistics, rtol=1e-4, atol=1e-6)


def test_8_bit_images_are_divided_by_255(tiny_network: nn.Module, images: np.ndarray) -> None:
    pixels = (images * 255).astype(np.uint8)
    pixels.flags.writeable = False  # as a mapped file
    converted = torch.from_numpy(pixels.copy()).float() / 255
    assert np.array_equal(
        extract_features(tiny_network, pixels, batch_size=4).logits,
        extract_features(tiny_network, converted, batch_size=4).logits,
    )


def test_a_batch_that_memory_does_not_hold_is_halved(tiny_network: nn.Module, images: np.ndarray) -> None:
    def refuse_more_than_three(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 3:
            raise MemoryError

    whole = extract_features(tiny_network, images)
    tiny_network.register_forward_pre_hook(refuse_more_than_three)
    halved = extract_features(tiny_network, images)
    np.testing.assert_allclose(halved.logits, whole.logits, rtol=1e-4, atol=1e-5)


def test_images_keep_their_order(
    tiny_network: nn.Module, images: np.ndarray, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    order = rng.permutation(len(images))
    straight = extract_features(tiny_network, images, batch_size=3)
    shuffled = extract_features(tiny_network, images[order], batch_size=3, progress=True)
    np.testing.assert_allclose(shuffled.statistics, straight.statistics[order], rtol=1e-4, atol=1e-6)
    assert "features: 100%" in capsys.readouterr().err


def test_take_selects_all_arrays() -> None:
    features = Features(np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(12, dtype=np.float32).reshape(4, 3))
    taken = features.take(np.array([2, 0]))
    assert np.array_equal(taken.logits, [[4, 5], [0, 1]])
    assert np.array_equal(taken.statistics, [[6, 7, 8], [0, 1, 2]])
    assert np.array_equal(features.take(np.array([True, False, False, True])).statistics[1], [9, 10, 11])


class Brightness:
    """The mean of every channel; may note what it was given."""

    name = "brightness"

    def __init__(self, *, embeddings: bool = False, spoil: float = 0.0) -> None:
        self.needs, self.spoil = Needs(embeddings=embeddings), spoil
        self.passes: list[ForwardPass] = []

    def __call__(self, context: ForwardPass) -> Tensor:
        self.passes.append(context)
        return context.images.mean(dim=(2, 3)) + self.spoil


@pytest.mark.parametrize("embeddings", [False, True])
def test_requests_read_the_same_pass(tiny_network: nn.Module, images: np.ndarray, embeddings: bool) -> None:
    feature_request = Brightness(embeddings=embeddings)
    features = extract_features(tiny_network, images, feature_requests=[feature_request], batch_size=4)
    np.testing.assert_allclose(features.requested["brightness"], images.mean(axis=(2, 3)), rtol=1e-5)
    assert len(feature_request.passes) == 3
    assert np.array_equal(np.concatenate([context.logits for context in feature_request.passes]), features.logits)
    plain = extract_features(tiny_network, images, batch_size=4)
    assert np.array_equal(features.logits, plain.logits)
    assert np.array_equal(features.statistics, plain.statistics)
    context = feature_request.passes[0]
    assert len(context.embeddings) == (3 if embeddings else 0)
    if context.head is not None:
        assert isinstance(context.head.module, nn.Linear)
        assert torch.equal(context.head.module(context.head.inputs), context.logits)
    assert (context.head is not None) == embeddings
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_network.modules())


def test_requests_of_one_name_are_computed_once(tiny_network: nn.Module, images: np.ndarray) -> None:
    first, second = Brightness(), Brightness()
    features = extract_features(tiny_network, images, feature_requests=[first, second], batch_size=11)
    assert list(features.requested) == ["brightness"]
    assert len(first.passes) + len(second.passes) == 1


def test_requested_values_that_are_not_finite_are_refused(tiny_network: nn.Module, images: np.ndarray) -> None:
    with pytest.raises(NetworkError, match="finite brightness"):
        extract_features(tiny_network, images, feature_requests=[Brightness(spoil=float("nan"))])


def test_take_and_concatenate_include_requested_values() -> None:
    numbers = np.arange(8, dtype=np.float32).reshape(4, 2)
    features = Features(numbers, numbers, {"a": numbers + 10})
    assert np.array_equal(features.take(np.array([3, 1])).requested["a"], [[16, 17], [12, 13]])
    both = Features.concatenated([features.take(np.array([0])), features.take(np.array([2]))])
    assert np.array_equal(both.requested["a"], [[10, 11], [14, 15]])
    assert np.array_equal(both.logits, [[0, 1], [4, 5]])
    more = features._replace(requested={**features.requested, "b": numbers})
    with pytest.raises(InputError, match="same feature requests"):
        Features.concatenated([features, more])
    with pytest.raises(InputError, match="same feature requests"):
        Features.concatenated([])


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_used_in_evaluation_mode_and_left_in_its_own(
    tiny_network: nn.Module, images: np.ndarray, training: bool
) -> None:
    expected = extract_features(tiny_network, images)
    tiny_network.train(training)
    running = {key: value.clone() for key, value in tiny_network.state_dict().items()}
    got = extract_features(tiny_network, images)
    assert np.array_equal(got.logits, expected.logits)
    assert all(module.training == training for module in tiny_network.modules())
    assert all(torch.equal(value, running[key]) for key, value in tiny_network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), "float32"),
        (lambda x: (x * 255).astype(np.int16), "int16"),
        (lambda x: x[0], "shape"),
        (lambda x: x.transpose(0, 2, 3, 1), "second axis"),
        (lambda x: x[:0], "at least one image"),
        (lambda x: x * 255, r"\[0, 1\]"),
        (lambda x: x - 0.5, r"\[0, 1\]"),
        (lambda x: np.where(np.arange(11)[:, None, None, None] == 7, np.float32("nan"), x), "nan"),
        (lambda x: np.where(np.arange(11)[:, None, None, None] == 7, np.float32("inf"), x), "inf"),
        (lambda x: x.tolist(), "got list"),
    ],
    ids=["float64", "int16", "one image", "channels last", "none", "0 to 255", "negative", "NaN", "infinite", "list"],
)
def test_images_that_cannot_be_used_are_refused(
    tiny_network: nn.Module, images: np.ndarray, change: object, message: str
) -> None:
    assert callable(change)
    with pytest.raises(InputError, match=message):
        extract_features(tiny_network, change(images), discovery=discover(tiny_network, SHAPE), batch_size=4)


def test_a_batch_size_below_one_is_refused(tiny_network: nn.Module, images: np.ndarray) -> None:
    with pytest.raises(InputError, match="batch size"):
        extract_features(tiny_network, images, batch_size=0)


class Wrapped(nn.Module):
    """A network whose output is something else than finite logits ``(B, K)``."""

    def __init__(self, network: nn.Module, spoil: str) -> None:
        super().__init__()
        self.network = network
        self.spoil = spoil

    def forward(self, images: Tensor) -> object:
        logits = self.network(images)
        if self.spoil == "tuple":
            return logits, logits
        if self.spoil == "shape":
            return logits.flatten()
        return logits.masked_fill(images.amax(dim=(1, 2, 3)).unsqueeze(1) > 0.99, float(self.spoil))


@pytest.mark.parametrize(
    ("spoil", "message"), [("tuple", "got tuple"), ("shape", "logits of shape"), ("nan", "finite"), ("inf", "finite")]
)
def test_outputs_that_are_no_finite_logits_are_refused(
    tiny_network: nn.Module, images: np.ndarray, spoil: str, message: str
) -> None:
    images[4, 0, 0, 0] = 1.0
    network = Wrapped(tiny_network, spoil)
    with pytest.raises(NetworkError, match=message):
        extract_features(network, images)
    assert not any(module._forward_hooks for module in network.modules())


class OfCompanion:
    """The companion's logits for the image and for the mirrored image, side by side."""

    name, needs = "of_companion", Needs(companion=(IMAGE, View(flip=True)))

    def __call__(self, context: ForwardPass) -> Tensor:
        return torch.cat([context.companion[view] for view in self.needs.companion], dim=1)


def test_a_companion_gets_the_image_and_its_views(tiny_network: nn.Module, images: np.ndarray) -> None:
    classes = extract_features(tiny_network, images).logits.shape[1]
    companion = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, classes)).eval()
    given = extract_features(tiny_network, images, feature_requests=[OfCompanion()], companion=companion, batch_size=4)
    pixels = torch.from_numpy(images)
    with torch.no_grad():
        expected = torch.cat([companion(pixels), companion(pixels.flip(3))], dim=1)
    np.testing.assert_allclose(given.requested["of_companion"], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_missing_companion_and_one_of_other_classes_are_refused(tiny_network: nn.Module, images: np.ndarray) -> None:
    with pytest.raises(InputError, match="give --companion"):
        extract_features(tiny_network, images, feature_requests=[OfCompanion()])
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 77)).eval()
    with pytest.raises(NetworkError, match="of the same classes"):
        extract_features(tiny_network, images, feature_requests=[OfCompanion()], companion=other)
