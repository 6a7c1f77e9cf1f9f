"""Views: mirrored and shifted pictures, and their own pass beside that of the images."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError
from models.features import FeatureExtractor, ForwardPass, Needs, extract_features
from models.images.views import View
from models.residuals import discover

SHAPE = (3, 16, 16)


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((5, *SHAPE), dtype=np.float32))


def test_a_mirrored_image_has_left_and_right_exchanged(images: Tensor) -> None:
    flipped = View(flip=True)(images)
    assert torch.equal(flipped[:, :, :, 0], images[:, :, :, -1])
    assert torch.equal(View(flip=True)(flipped), images)


def test_a_shifted_image_is_moved_down_and_right_over_black(images: Tensor) -> None:
    shifted = View(shift=2)(images)
    assert shifted.shape == images.shape
    assert torch.equal(shifted[:, :, 2:, 2:], images[:, :, :-2, :-2])
    assert not shifted[:, :, :2].any()
    assert not shifted[:, :, :, :2].any()
    assert torch.equal(View(flip=True, shift=2)(images), View(shift=2)(images.flip(3)))


@pytest.mark.parametrize("text", ["flip", "shift1", "shift12", "flip+shift3"])
def test_a_view_is_parsed_from_its_name(text: str) -> None:
    assert View.parse(text).name == text


@pytest.mark.parametrize(
    "text", ["", "flop", "shift", "shift0", "shift65", "shift-1", "flipshift1", "+shift1", "flip+", None]
)
def test_another_name_is_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(InputError, match=r"expected a view such as flip"):
        View.parse(text)


def test_a_shift_as_large_as_the_image_is_refused(images: Tensor) -> None:
    with pytest.raises(InputError, match="smaller than the images"):
        View(shift=16)(images)


@dataclass(frozen=True)
class BothLogits:
    """Logits of the image and of its view."""

    view: View
    extra: Needs = Needs()  # noqa: RUF009

    @property
    def name(self) -> str:
        return f"both:{self.view.name}"

    @property
    def needs(self) -> Needs:
        return self.extra._replace(views=(self.view,))

    def __call__(self, context: ForwardPass) -> Tensor:
        return torch.stack([context.logits, context.views[self.view].logits], dim=1)


@pytest.mark.parametrize("embeddings", [False, True])
def test_each_view_is_passed_once_beside_the_images(tiny_network: nn.Module, images: Tensor, embeddings: bool) -> None:
    views = [View(flip=True), View(shift=1)]
    batches: list[int] = []
    tiny_network.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    discovery = discover(tiny_network, SHAPE)
    batches.clear()
    features = extract_features(
        tiny_network,
        images,
        discovery=discovery,
        feature_requests=[BothLogits(view, Needs(embeddings)) for view in (*views, views[0])],
        batch_size=256,
    )
    assert batches == [3 * len(images)]
    with torch.no_grad():
        alone = {view: tiny_network(view(images)).numpy() for view in views}
    for view in views:
        both = features.requested[f"both:{view.name}"]
        np.testing.assert_allclose(both[:, 0], features.logits, rtol=1e-6)
        np.testing.assert_allclose(both[:, 1], alone[view], rtol=1e-4, atol=1e-5)
    assert len(features.statistics) == len(images)


def test_a_views_pass_is_whole_and_has_a_gradient_in_the_images(tiny_network: nn.Module, images: Tensor) -> None:
    view = View(flip=True)
    images.requires_grad_(True)
    both = BothLogits(view, Needs(embeddings=True, pooled=True))
    extractor = FeatureExtractor(tiny_network, discover(tiny_network, SHAPE), None, [both])
    context = extractor.forward(images)
    seen = context.views[view]
    assert torch.equal(seen.images, images.flip(3))
    assert [each.shape for each in seen.embeddings] == [each.shape for each in context.embeddings]
    assert seen.head is not None
    torch.testing.assert_close(seen.head.module(seen.head.inputs), seen.head.output)
    for name in ("pooled_embeddings", "pooled_residues"):
        assert getattr(seen, name).shape == getattr(context, name).shape
    assert seen.statistics.shape == context.statistics.shape
    (gradient,) = torch.autograd.grad(seen.logits.sum(), images)
    assert gradient.flatten(1).any(dim=1).all()
