"""Digests of images that a detector has seen."""

import numpy as np
import pytest

from models.datasets.base import load_dataset
from models.datasets.contents import image_digests
from models.errors import ArtifactError
from service.inputs.seen_images import pack, unpack


def test_digests_survive_packing() -> None:
    digests = image_digests(load_dataset("digits").limited(20))
    np.testing.assert_array_equal(unpack(pack(digests)), np.unique(digests))


@pytest.mark.parametrize("text", ["???", "AAA", "AAAA"])
def test_damaged_digests_are_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="fit again"):
        unpack(text)
