"""Detectors that need torch use it, and say so; an engine that was asked for is then an error."""

import pytest
from torch import nn

from detector.detectors.mahalanobis import Mahalanobis
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover
from service.inputs import engine_of
from tests.service.small_evaluation import small_digits


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return small_digits(50)


def test_gradients_need_torch(
    tiny_network: nn.Module, digits: ImageDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(tiny_network, Normalized)
    options = {
        "discovery": discover(tiny_network, (3, 16, 16)), "statistics_spec": StatisticsSpec(), "device": "cpu",
        "feature_requests": Mahalanobis(magnitude=0.01).feature_requests(),
    }  # fmt: skip
    assert engine_of("auto", "float32", tiny_network, digits, **options) is None
    assert "engine: torch in float32, since the detector needs" in capsys.readouterr().err
    for name, precision in (("onnxruntime", "float32"), ("auto", "bfloat16")):
        with pytest.raises(InputError, match=f"leave --engine {name} and --precision {precision} out"):
            engine_of(name, precision, tiny_network, digits, **options)
