"""The examples in docs/adding-a-detector.md and docs/adding-a-component.md work."""

import pathlib
import re
import sys
import textwrap
from types import ModuleType

import numpy as np
import pytest

from detector.base.detector import Detector
from detector.components.base import Component
from detector.detectors.path import Path
from models.errors import InputError
from models.features import extract_features
from models.loading import build_network
from tests.detector.base.test_composite import made_up
from tests.detector.conftest import SPEC, planted

pytestmark = pytest.mark.slow

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "adding-a-detector.md"


def test_the_guides_request(rng: np.random.Generator) -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("## Feature requests")[2]
    source = re.search(r"(    \"\"\"Brightness.*?)\n## ", text, re.DOTALL)
    assert source is not None
    module = ModuleType("detector.detectors.exposure")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(textwrap.dedent(source[1]), str(GUIDE), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    detector: Detector = module.__dict__["Exposure"](num_trees=20)
    network = build_network(SPEC)
    parts = [
        extract_features(network, images.astype(np.float32), feature_requests=detector.feature_requests())
        for images in (rng.uniform(0.3, 0.7, size=(30, 3, 16, 16)), rng.uniform(0.0, 1.0, size=(30, 3, 16, 16)))
    ]
    natural, odd = parts
    detector.fit(natural, odd)
    assert detector.score(natural).max() < detector.score(odd).min()


def test_the_guides_detector(rng: np.random.Generator) -> None:
    source = re.search(r"## The file\n\n(.*?)\n- `__all__`", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    module = ModuleType("detector.detectors.mean_path")
    exec(compile(textwrap.dedent(source[1]), str(GUIDE), "exec"), module.__dict__)
    kind: type[Detector] = module.__dict__["MeanPath"]
    detector = kind(power=2.0).fit(planted(rng, 50))
    natural, odd = planted(rng, 50), planted(rng, 50, shift=2.0)
    assert detector.score(natural).max() < detector.score(odd).min()
    again = kind.from_state(detector.parameters(), detector.state())
    assert np.array_equal(again.score(odd), detector.score(odd))
    with pytest.raises(InputError):
        kind.from_state(detector.parameters(), {"shape": detector.state()["shape"]})


def test_the_guides_component(rng: np.random.Generator) -> None:
    page = GUIDE.with_name("adding-a-component.md").read_text(encoding="utf-8")
    source = re.search(r"## The file\n\n(.*?)\nThen declare", page, re.DOTALL)
    assert source is not None
    module = ModuleType("detector.components.neighbours")
    exec(compile(textwrap.dedent(source[1]), str(GUIDE), "exec"), module.__dict__)
    kind: type[Component] = module.__dict__["NeighbourDistance"]

    class WithNeighbours(Path):
        def declare(self) -> tuple[Component, ...]:
            return (*super().declare(), kind())

    detector = WithNeighbours(classifier="none").prepare(made_up(rng, 100)).fit(made_up(rng, 100))
    natural, odd = made_up(rng, 50), made_up(rng, 50, path=20)
    assert {"path", "neighbours"} < set(detector.tail_scores(odd))
    assert detector.score(natural).max() < detector.score(odd).min()
    again = WithNeighbours.from_state(detector.parameters(), detector.state())
    assert np.array_equal(again.score(odd), detector.score(odd))
    assert again.component_info()["neighbours"].title == "Neighbours"
