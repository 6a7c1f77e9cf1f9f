import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import UnknownNameError
from models.registry import ATTACKS, DATASETS, DETECTORS, NETWORKS, OBJECTIVES, PluginFolder

ALL = [ATTACKS, DATASETS, DETECTORS, NETWORKS, OBJECTIVES]


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.kind)
def test_every_plugin_loads_and_has_a_summary(folder: PluginFolder) -> None:
    summaries = folder.summaries()
    assert summaries
    for name, summary in summaries.items():
        assert callable(folder.load(name)), name
        assert len(summary) > 10, f"{folder.kind} {name} has no one-line summary"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'wide_resnet28_10'.*Known:.*resnet110"):
        NETWORKS.load("wide_resnet2810")


def test_listing_and_help_import_no_torch() -> None:
    code = (
        "import sys\nfrom service.cli.main import main\n"
        "assert [main(['list']), main(['--help']), main(['fit', '--help'])] == [0, 0, 0]\n"
        "assert not {'torch', 'sklearn', 'art', 'fastapi'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_the_four_packages_resolve_inside_the_checkout() -> None:
    import attacks
    import detector
    import models
    import service

    root = Path(__file__).resolve().parents[2]
    for package in (attacks, detector, models, service):
        assert Path(str(package.__file__)).parent.parent == root
