"""Labels of a data set with fewer classes than the network has outputs, and class names in other spellings."""

import numpy as np
import pytest

from models.datasets.base import ImageDataset
from models.errors import InputError
from models.images.preprocessing import Preprocessing
from service.inputs import with_labels_of

IMAGENET = 1000


def images_of(*classes: str) -> ImageDataset:
    """One image of each class."""
    pixels = np.arange(len(classes) * 48, dtype=np.uint8).reshape(-1, 3, 4, 4)
    return ImageDataset("some", pixels, np.arange(len(classes)), classes, Preprocessing(None, None, 4, 4))


@pytest.mark.parametrize(
    ("given", "known", "count", "expected", "rule"),
    [
        (("bee", "cat"), ("ant", "bee", "cat"), 3, [1, 2], "name"),
        (("Golden_Retriever", "pug"), ("pug, pug-dog", "golden retriever"), 2, [1, 0], None),
        (("tench, Tinca tinca",), ("goldfish", "tench"), 2, [1], "name"),
        (("0003", "0010"), None, 12, [3, 10], "index"),
        (("0", "1", "2"), ("tench", "goldfish", "shark", "ray"), 4, [0, 1, 2], "index"),
        (("x", "y"), ("ant", "bee"), 2, [0, 1], "order"),
        (("x", "y"), None, 2, [0, 1], "order"),
        (("0", "1", "10", "2"), None, 4, [0, 1, 2, 3], "order"),
        (("0", "1"), None, 2, [0, 1], None),
        (("n01440764", "n15075141"), None, IMAGENET, [0, 999], "WordNet number"),
    ],
)
def test_classes_are_matched_and_the_rule_is_reported(
    given: tuple[str, ...], known: tuple[str, ...] | None, count: int, expected: list[int], rule: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if rule == "WordNet number":
        pytest.importorskip("timm")
    data = with_labels_of(images_of(*given), known, count, "the network")
    assert data.labels.tolist() == expected
    assert len(data.classes) == count
    reported = capsys.readouterr().err
    assert (f"outputs of the network by {rule}, from {given[0]} = output {expected[0]} to" in reported) == bool(rule)


def test_the_classes_are_those_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_labels_of(images_of("cat"), ("ant", "cat"), 2, "it").classes == ("ant", "cat")
    assert with_labels_of(images_of("0002"), None, 3, "it").classes == ("0", "1", "2")
    assert with_labels_of(images_of("x", "y"), None, 2, "it").classes == ("x", "y")
    assert with_labels_of(images_of("ant"), ("ant", "crane", "crane"), 3, "it").classes == (
        "ant",
        "crane (1)",
        "crane (2)",
    )


@pytest.mark.parametrize(
    ("given", "known", "message"),
    [
        (("x",), None, "expected a data set of 3 classes for it, got some with 1"),
        (("1", "2", "3", "4"), None, "by the index of their output, from 0 to 2"),
        (("1", "3"), None, "expected a data set of 3 classes"),
        (("1", "01"), None, "expected a data set of 3 classes"),
        (("ant", "zebra"), ("ant", "bee", "cat"), "got zebra beside 1 that it does know"),
        (("crane",), ("ant", "crane", "crane"), "expected a data set of 3 classes"),
    ],
)
def test_classes_that_match_in_no_way_are_refused(
    given: tuple[str, ...], known: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        with_labels_of(images_of(*given), known, 3, "it")
