"""Copies are found by pixels, whatever their labels."""

from dataclasses import replace

import numpy as np

from models.datasets.base import ImageDataset
from models.datasets.contents import contents_of, without_copies
from models.images.preprocessing import Preprocessing


def some_images(count: int, rng: np.random.Generator) -> ImageDataset:
    """Distinct images of the first two of three classes."""
    pixels = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return ImageDataset("some", pixels, np.arange(count) % 2, ("a", "b", "c"), Preprocessing(None, None, 4, 4))


def test_copies_and_their_labels_are_counted(rng: np.random.Generator) -> None:
    data = some_images(10, rng)
    contents = contents_of(data)
    assert (contents.images, contents.copies, contents.contradictory) == (10, 0, 0)
    assert contents.classes == {"a": 5, "b": 5, "c": 0}
    more = data.take(np.array([0, 1, 2, 3, 0, 0, 1]))
    relabelled = replace(more, labels=np.array([0, 1, 0, 1, 0, 2, 1]))
    contents = contents_of(relabelled)
    assert (contents.images, contents.copies, contents.contradictory) == (7, 3, 1)
    assert contents.classes == {"a": 3, "b": 3, "c": 1}


def test_each_image_is_kept_once_in_order_with_its_first_label(rng: np.random.Generator) -> None:
    data = some_images(10, rng)
    assert without_copies(data) is data
    repeated = data.take(np.array([4, 2, 4, 9, 2, 2]))
    distinct = without_copies(replace(repeated, labels=np.array([0, 0, 1, 1, 2, 2])))
    np.testing.assert_array_equal(distinct.images, data.images[[4, 2, 9]])
    assert distinct.labels.tolist() == [0, 0, 1]
    assert distinct.skipped == {"copies": 3}
    assert without_copies(distinct) is distinct
