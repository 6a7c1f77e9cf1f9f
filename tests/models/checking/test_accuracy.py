import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checking import check_accuracy, check_normalization, right_predictions
from models.normalization import Normalized


@pytest.mark.parametrize(
    ("right", "classes", "status"),
    [
        (0.987, 2, "pass"),
        (0.65, 3, "pass"),
        (0.5, 2, "warning"),
        (0.36, 3, "warning"),
        (0.1, 10, "warning"),
        (0.16, 10, "pass"),
        (0.1, 1, "pass"),
    ],
)
def test_accuracy_is_compared_with_chance_by_its_interval(right: float, classes: int, status: str) -> None:
    labels = np.arange(600) % classes
    found = check_accuracy(np.arange(600) < round(600 * right), labels)
    assert found.status == status
    assert found.values["interval"][0] < right < found.values["interval"][1]


def test_always_predicting_the_most_frequent_class_is_chance() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert check_accuracy(labels == 0, labels).status == "warning"
    assert "no trained weights" in check_accuracy(labels == 0, labels, trained=False).message


class _Threshold(nn.Module):
    """Class 1 if the mean of the first channel, normalised, is above zero."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x[:, 0].mean((1, 2))
        return torch.stack([-mean, mean], 1)


@pytest.mark.parametrize(
    ("mean", "flip", "better"),
    [
        (0.5, False, None),
        (0.0, False, "0.5"),
        (0.75, False, "swapped"),
        (0.5, True, "BGR"),
    ],
)
def test_a_much_better_normalisation_is_a_warning(
    mean: float, flip: bool, better: str | None, rng: np.random.Generator
) -> None:
    levels = torch.from_numpy(rng.choice([0.2, 0.4, 0.6, 0.8], (200, 3, 1, 1)).astype(np.float32))
    images = levels.expand(-1, -1, 4, 4).contiguous()
    labels = (images[:, 0, 0, 0] > 0.5).long().numpy()
    network = Normalized(_Threshold(), (mean,) * 3, (0.5,) * 3)
    images = images.flip(1) if flip else images
    right = right_predictions(network, images, labels)
    found = check_normalization(network, images, labels, right)
    assert found.status == ("pass" if better is None else "warning")
    assert better is None or better in found.message
    assert found.values["accuracies"]["as given"] == pytest.approx(float(right.mean()))
