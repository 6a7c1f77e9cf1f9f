"""A written report that tests only read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.evaluation.records import Evaluation
from service.report import write_evaluation_report
from tests.service.report.examples import whole


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation, dict[str, Any]]:
    """One report of a whole evaluation, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("evaluation") / "new" / "report"
    given = whole(np.random.default_rng(11))
    return folder, given, write_evaluation_report(folder, given, resamples=10, per_image_csv=True)
