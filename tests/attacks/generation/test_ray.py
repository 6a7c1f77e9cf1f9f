"""The attack on a real Ray cluster of this machine, of which a worker is killed."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import AttackError
from models.runners import build_runner
from tests.attacks.digits import Digits
from tests.attacks.generation.test_folder import Failing, Killed, Pixels, shards_of

pytestmark = pytest.mark.slow


@pytest.fixture
def _cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster with one CPU; all of its processes end with the test."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a key into the home folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray", reason="needs the extra `ray`")
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
            yield
            ray.shutdown()


@pytest.mark.usefixtures("_cluster")
def test_a_killed_worker_costs_its_shards_only(digits_network: Digits, tmp_path: Path) -> None:
    pixels, attack, runner = Pixels(digits_network), Killed(steps=3, epsilon=0.1), build_runner("ray")
    pixels.attacked(tmp_path / "undisturbed", attack)
    attack.marker = tmp_path / "marker"
    attack.marker.touch()
    records = pixels.attacked(tmp_path / "killed", attack, runner=runner)
    assert not attack.marker.exists()
    assert [record["kept"] for record in records] == [False] * 3
    assert shards_of(tmp_path / "killed") == shards_of(tmp_path / "undisturbed")
    pixels.images[:, 0, 0, 0] = 255
    with pytest.raises(AttackError, match="more than half"):
        pixels.attacked(tmp_path / "failing", Failing(), runner=runner)
