"""`attack`, and `fit` and `evaluate` on what it attacked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attacks import build_attack
from attacks.generation.folder import attack_into
from models.errors import InputError
from models.runners import build_runner
from service.cli.main import main
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.running.run import run_evaluation
from service.evaluation.summary.figures import figures
from service.jobs.fit import FitInputs, fit_detector
from service.requests.fit import FitOptions
from tests.service.small_evaluation import loaded_network, settings, small_digits

IMAGES = 120


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    """Small digits, attacked with FGM, which is not random: its images are those of `fit` and `evaluate`."""
    data = small_digits(IMAGES)
    attack_into(
        tmp_path / "attacked", loaded_network(seed).network, build_attack("fgm", {"epsilon": 0.1, "seed": seed}),
        data.images, data.labels, runner=build_runner("local"), shard_size=50, progress=False,
    )  # fmt: skip
    return tmp_path / "attacked"


def test_fit_takes_attacked_images_from_the_folder_or_a_runner(folder: Path, tmp_path: Path, seed: int) -> None:
    inputs = FitInputs(data=small_digits(IMAGES), loaded=loaded_network(seed))
    options = FitOptions(
        out=tmp_path / "artifact", detector="transport:num_trees=5", epsilon="0.1", split="0.5,0.25,0.25", fpr=0.1,
        seed=seed, engine="torch", cache=None,
    )  # fmt: skip
    sharded = replace(options, runner="local", cache=tmp_path / "work")
    expected, *others = [
        fit_detector(inputs, each, progress=False)
        for each in (options, replace(options, attacked=folder), sharded, sharded)
    ]
    assert "attacked" not in expected.provenance
    for each in others:
        np.testing.assert_array_equal(each.pipeline.calibration.scores, expected.pipeline.calibration.scores)
        assert each.provenance["attacked"] is True
    (record,) = (json.loads(path.read_bytes()) for path in (tmp_path / "work").glob("fgm-*/shard-*.json"))
    assert (record["n"], record["quarantined"]) == (60, {})
    assert "versions" in record["provenance"]
    for wrong, message in (
        ({"seed": seed + 1}, rf"differ in seed \({seed}, not {seed + 1}\)"),
        ({"epsilon": "0.2"}, r"differ in epsilon \(0.1, not 0.2\)"),
        ({"detector": "energy"}, "--attacked .* has no effect on energy"),
        ({"detector": "energy", "attacked": None, "runner": "local"}, "--runner local has no effect on energy"),
        ({"runner": "local"}, "--runner has no effect on the images of --attacked"),
        ({"runner": "local", "attacked": None}, "--runner needs --cache"),
    ):
        with pytest.raises(InputError, match=message):
            fit_detector(inputs, replace(options, **{"attacked": folder, **wrong}), progress=False)
    unseen = FitInputs(data=small_digits(IMAGES, first=IMAGES), loaded=inputs.loaded)
    with pytest.raises(InputError, match="60 of 60 images are not in"):
        fit_detector(unseen, replace(options, attacked=folder), progress=False)


def test_evaluate_takes_attacked_images_from_the_folder_or_a_runner(folder: Path, tmp_path: Path, seed: int) -> None:
    inputs = EvaluationInputs(data=small_digits(IMAGES), network=loaded_network(seed))
    wishes = settings(runs=1, detectors=("transport:num_trees=5",), seed=seed)

    here, *others = (
        run_evaluation(plan_evaluation(inputs, each), progress=False)
        for each in (wishes, replace(wishes, attacked=folder), replace(wishes, runner="local", cache=tmp_path))
    )
    assert "attacked" not in here.provenance["settings"]
    for there in others:
        assert figures(here, resamples=0)["results"] == figures(there, resamples=0)["results"]
        assert there.provenance["settings"]["attacked"] is True
    with pytest.raises(InputError, match="differ in attack"):
        plan_evaluation(inputs, replace(wishes, attacked=folder, test_on=("bim:steps=2",), fit_on=("bim:steps=2",)))
    outliers = {"others": replace(small_digits(IMAGES, first=IMAGES), name="others")}
    alone = replace(wishes, detectors=("energy",), test_on=(), fit_on=())
    for options in ({"attacked": folder}, {"runner": "local"}):
        with pytest.raises(InputError, match=rf"--{next(iter(options))} .* has no effect without attacks"):
            plan_evaluation(replace(inputs, outliers=outliers), replace(alone, **options))


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_an_array_attacks_with_its_own_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        command,
        "--network",
        "n",
        "--dataset",
        "digits",
        "--out",
        "o",
        "--attack" + "s" * (command != "fit"),
        "fgm",
    ]
    assert main([*words, "--runner", "array"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ("--runner", "array", "local", "ray")), error


def test_the_command_attacks_in_parts_and_resumes(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, pixels in enumerate(rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(10)))
    words = [
        "attack", "--network", "pretrained:cifar10-resnet20", "--dataset", f"imglist:{tmp_path / 'list.txt'}",
        "--attack", "fgm:epsilon=1/255", "--shard-size", "4", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main([*words, "--runner", "array", "--shard", "1/2"]) == 0
    assert "6 images in 2 shards, 0 of them from earlier runs" in capsys.readouterr().out
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "9 images in 3 shards, 2 of them from earlier runs" in printed.out
    assert "1 of 10 files of list.txt are left out (index 2, from 0)" in printed.err
    assert main([*words, "--runner", "array", "--shard", "0/5"]) == 0
    printed = capsys.readouterr()
    assert "0 images in 0 shards" in printed.out
    assert "part 0 of 5 has none of the 3 shards" in printed.err
    assert main([*words, "--limit", "9", "--runner", "array", "--shard", "0/2"]) == 0
    assert "4 images in 1 shards" in capsys.readouterr().out
    for wrong, message in (
        (["--runner", "array"], "needs --shard i/K"),
        (["--shard", "0/2"], "needs --shard i/K"),
        (["--runner", "array", "--shard", "2/2"], "from 0 to 1 of 2"),
        (["--runner", "array", "--shard", "1"], "as in 0/8"),
        (["--shard-size", "5000"], "at most 4096"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err
