"""Copies of an image are never in two parts, and a data set shares no image with another."""

import numpy as np
import pytest

from models.errors import InputError
from service.inputs import distinct_images, hold_out, require_disjoint
from tests.service.small_evaluation import noise


def test_copies_and_contradictory_labels_are_reported(capsys: pytest.CaptureFixture[str], seed: int) -> None:
    data = noise(20, seed).take(np.arange(50) % 20)
    assert len(distinct_images(data)) == 20
    assert "30 of 50 images of noise are copies of others and are left out" in capsys.readouterr().err
    assert distinct_images(data.take(np.arange(20))) is not None
    assert capsys.readouterr().err == ""


def test_a_copy_of_a_held_out_image_is_in_neither_part(seed: int) -> None:
    once = noise(30, seed)
    rest, sample = hold_out(once, 10, seed)
    assert (len(rest), len(sample)) == (20, 10)
    rest, sample = hold_out(once.take(np.arange(90) % 30), 10, seed)
    require_disjoint(rest, sample)
    assert len(sample) == 10
    with pytest.raises(InputError, match="hold out fewer"):
        hold_out(once.take(np.zeros(5, np.int64)), 1, seed)


def test_common_images_are_refused(seed: int) -> None:
    data = noise(20, seed)
    with pytest.raises(InputError, match="noise and noise share 3 images"):
        require_disjoint(data.take(np.array([1, 2, 3])), data)
    require_disjoint(noise(20, seed + 1), data)
