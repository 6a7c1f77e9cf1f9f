"""NaN and infinity of a network are an error; NaN images of a library are not."""

import pytest
import torch
from torch import Tensor, nn

from attacks.common.finite import check_finite, watched_logits
from attacks.common.steps import losses_and_gradient, losses_of
from models.errors import AttackError


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_entry_of_every_tensor_is_checked(value: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses, gradient = torch.randn(7, generator=generator).double(), torch.randn(7, 3, 4, 4, generator=generator)
    check_finite("losses and gradients", losses, gradient)
    check_finite("gradients", 1e38 * gradient.sign(), gradient[:0])
    row = int(torch.randint(7, (), generator=generator))
    other = (row + 3) % 7
    losses[row] = value
    gradient[other].view(-1)[int(torch.randint(48, (), generator=generator))] = value
    for given, count in (((losses,), 1), ((gradient,), 1), ((losses, gradient), 2)):
        with pytest.raises(AttackError, match=f"expected finite losses .* infinity for {count} of 7 images"):
            check_finite("losses", *given)


class _Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)[:, :4]


def test_losses_are_checked_with_and_without_a_gradient() -> None:
    images, classes = torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    for function in (losses_and_gradient, losses_of):
        function(_Scaled(2.0), images, classes)
        with pytest.raises(AttackError, match="3 of 3 images"):
            function(_Scaled(torch.nan), images, classes)


class _WithoutGradient(nn.Module):
    """A classifier behind features that are taken without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 4)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = images.flatten(1).exp()
        logits: Tensor = self.head(features)
        return logits


class _InPlace(nn.Module):
    """Overwrites what the derivative of its exponential needs."""

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)[:, :4].exp()
        logits = 2 * features
        features += 1
        return logits


@pytest.mark.parametrize("frozen", [True, False])
def test_a_network_without_a_gradient_in_the_images_is_named(frozen: bool) -> None:
    images, classes = torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(AttackError, match="no_grad"):
        losses_and_gradient(_WithoutGradient().requires_grad_(not frozen), images, classes)
    with pytest.raises(AttackError, match=r"in-place .* without gradients"):
        losses_and_gradient(_InPlace(), images, classes)


def test_nan_images_of_a_library_are_not_checked() -> None:
    images = torch.rand(3, 3, 4, 4)
    images[1] = torch.nan
    given = images.requires_grad_(True)
    logits = watched_logits(_Scaled(2.0), given)
    assert logits[1].isnan().all()
    (gradient,) = torch.autograd.grad(logits.square().sum(), given)
    assert gradient[[0, 2]].isfinite().all()
    with pytest.raises(AttackError, match=r"finite logits .* 2 of 2 images"):
        watched_logits(_Scaled(torch.inf), given)
