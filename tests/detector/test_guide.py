"""The detector in docs/adding-a-detector.md works as it stands there."""

import re
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detector.detectors.base import Detector
from models.errors import InputError
from tests.detector.conftest import planted

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-detector.md"


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
