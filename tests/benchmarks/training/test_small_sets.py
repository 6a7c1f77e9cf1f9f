"""Small trainings on the bundled digits: written once, found again, paired, condensed, drawn and shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.tables.training import accuracies, correlation, depths, differences, modules
from benchmarks.training import small_sets
from benchmarks.training.drawing import draw
from benchmarks.training.instances import (
    Images,
    Instance,
    Setting,
    finished,
    run_instance,
    take_averages_anew,
)
from benchmarks.training.settings import RESULTS, settings
from benchmarks.training.small_sets import condensed, instances, run, sources
from models.errors import InputError
from models.objectives.base import build_objective
from models.registry import NETWORKS
from models.training.loop import accuracy
from models.training.recipe import Recipe

pytestmark = pytest.mark.slow

DIGITS = Images("digits", "digits", "digits", 40)
RECIPE = {"epochs": 2, "batch_size": 20, "crop_padding": 0, "flip": False, "learning_rate": 0.05}
VANILLA = Setting(
    experiment="table-1", method="vanilla", dataset="digits", images=40, network="one_representation_resnet9",
    objective="cross_entropy", arguments={"filters": 4, "blocks": 2}, recipe=RECIPE, tracked=20,
)  # fmt: skip
LEAST_ACTION = replace(VANILLA, method="least action, λ0 = 1", objective="least_action")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two instances of each of the two settings."""
    folder: Path = tmp_path_factory.mktemp("work")
    assert run(instances([VANILLA, LEAST_ACTION], {"digits": DIGITS}, 0, 2), folder, threads=1) == 0
    return folder


@pytest.fixture
def found(work: Path) -> list[dict[str, Any]]:
    every = [finished(each, work) for each in instances([VANILLA, LEAST_ACTION], {"digits": DIGITS}, 0, 2)]
    assert None not in every
    return [figures for figures in every if figures is not None]


def test_a_finished_instance_leaves_no_state(work: Path, found: list[dict[str, Any]]) -> None:
    for figures in found:
        assert len(figures["tracked"]) == len(figures["loss"]) == 2
        assert 0 <= figures["accuracy"] <= 1
        assert figures["transport_cost"] > 0
        assert figures["tested"] == 40
    assert len(list(work.rglob("*.json"))) == 4
    assert not list(work.rglob("*.safetensors"))


def test_a_finished_instance_is_not_trained_again(
    work: Path, found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[Instance] = []
    monkeypatch.setattr(small_sets, "settings", lambda: [VANILLA, LEAST_ACTION])
    monkeypatch.setattr(small_sets, "sources", lambda *_: {"digits": DIGITS})

    def noted(todo: list[Instance], *_: object) -> int:
        trained.extend(todo)
        return 0

    monkeypatch.setattr(small_sets, "run", noted)
    (tmp_path / "small-sets").symlink_to(work)
    command = ["small_sets", "--work", str(tmp_path), "--out", str(tmp_path / "result.json")]
    small_sets.main([*command, "--instances", "2"])
    assert trained == []
    small_sets.main([*command, "--instances", "3"])
    assert [(each.number, each.setting.method) for each in trained] == [(2, "vanilla"), (2, "least action, λ0 = 1")]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["n"], result["planned"]) == (4, 6)


def test_the_time_of_an_interrupted_training_is_unknown(tmp_path: Path) -> None:
    interrupted, complete = (Instance(VANILLA, DIGITS, number) for number in range(2))
    interrupted.path(tmp_path).with_suffix("").mkdir(parents=True)
    found = [run_instance(each, tmp_path) for each in (interrupted, complete)]
    assert found[0]["processor_seconds"] is None
    for members, expected in ((found, found[1]["processor_seconds"]), (found[:1], None)):
        [row] = condensed(members)["experiments"]["table-1"]["rows"]
        [method] = row["methods"]
        assert method["processor_seconds"] == (expected and pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize(
    "other",
    [
        Instance(replace(VANILLA, images=39), DIGITS, 0),
        Instance(replace(VANILLA, recipe={**RECIPE, "epochs": 3}), DIGITS, 0),
        Instance(replace(LEAST_ACTION, options={"increase": 2.0}), DIGITS, 0),
        Instance(VANILLA, replace(DIGITS, tested=41), 0),
        Instance(VANILLA, DIGITS, 2),
        Instance(VANILLA, DIGITS, 0, seed=1),
    ],
)
def test_another_training_is_another_instance(work: Path, found: object, other: Instance) -> None:
    assert finished(other, work) is None


def test_the_name_of_a_method_is_no_part_of_the_instance(work: Path, found: object) -> None:
    assert finished(Instance(replace(VANILLA, method="plain"), DIGITS, 1), work) is not None


def test_the_first_planned_method_is_compared_with_finished_ones(
    found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_sets, "settings", lambda: [VANILLA, LEAST_ACTION])

    def of(figures: dict[str, Any]) -> tuple[str, int]:
        return figures["setting"]["method"], figures["instance"]

    def compared(kept: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        (row,) = condensed(kept)["experiments"]["table-1"]["rows"]
        return [(each["method"], each["than"], each["last"]["n"]) for each in row["differences"]]

    without_first = [figures for figures in found if of(figures) != ("vanilla", 0)]
    assert compared(without_first) == [("least action, λ0 = 1", "vanilla", 1)]
    assert compared([figures for figures in found if of(figures)[0] != "vanilla"]) == []


def test_pairs_share_images_and_weights_and_differ_from_other_pairs(tmp_path: Path) -> None:
    # Without a cost and a step the two objectives are the same training.
    free = replace(LEAST_ACTION, options={"fixed_weight": 0.0})
    figures = {
        (name, number): run_instance(Instance(setting, DIGITS, number), tmp_path)
        for name, setting in (("vanilla", VANILLA), ("free", free))
        for number in (0, 1)
    }
    for number in (0, 1):
        assert figures["vanilla", number]["loss"] == figures["free", number]["loss"]
        assert figures["vanilla", number]["transport_cost"] == figures["free", number]["transport_cost"]
    assert figures["vanilla", 0]["loss"] != figures["vanilla", 1]["loss"]


def test_reserved_test_images_are_not_in_the_pool() -> None:
    pool, test = Images("digits", "digits", None, 100).load()
    assert len(test) == 100
    assert not {image.tobytes() for image in pool.images} & {image.tobytes() for image in test.images}
    again = Images("digits", "digits", None, 100).load()[1]
    assert again.fingerprint() == test.fingerprint()


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"digits has .* to test on"):
        Images("digits", "digits", None, 5000).load()
    with pytest.raises(InputError, match="at least 5000 are needed"):
        run_instance(Instance(replace(VANILLA, images=5000), DIGITS, 0), tmp_path)


def test_a_failed_training_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = replace(VANILLA, images=5000)
    assert run([Instance(bad, DIGITS, 0), Instance(VANILLA, DIGITS, 0)], tmp_path) == 1
    output = capsys.readouterr().out
    assert "failed: table-1 digits 5000 vanilla #0: digits has" in output
    assert finished(Instance(VANILLA, DIGITS, 0), tmp_path) is not None


def test_new_averages_are_those_of_the_images(seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)).eval()
    data = Images("digits", "digits", None, 100).load()[1]
    momentum = network[1].momentum
    take_averages_anew(network, data)
    with torch.no_grad():
        expected = network[0](data.tensor())
    torch.testing.assert_close(network[1].running_mean, expected.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, expected.var((0, 2, 3)))
    assert network[1].momentum == momentum
    assert not network[1].training
    assert 0 <= accuracy(network, data) <= 1


def test_condensing_takes_means_over_instances_and_differences_within_pairs(found: list[dict[str, Any]]) -> None:
    result = condensed(found)
    (row,) = result["experiments"]["table-1"]["rows"]
    assert result["instances"] == 4
    assert (row["images"], row["batch"], row["epochs"], row["tested"]) == (40, 20, 2, 40)
    vanilla = [f["accuracy"] for f in found if f["setting"]["method"] == "vanilla"]
    other = [f["accuracy"] for f in found if f["setting"]["method"] != "vanilla"]
    assert row["methods"][0]["last"]["mean"] == pytest.approx(np.mean(vanilla))
    assert row["methods"][1]["highest"]["n"] == 2
    (difference,) = row["differences"]
    assert difference["than"] == "vanilla"
    assert difference["last"]["mean"] == pytest.approx(np.mean(other) - np.mean(vanilla))
    # An instance without its counterpart counts for the mean, not for the difference.
    (row,) = condensed(found[:3])["experiments"]["table-1"]["rows"]
    assert row["methods"][0]["last"]["n"] == 2
    assert row["differences"][0]["last"]["n"] == row["methods"][1]["last"]["n"] == 1


def test_tables_render_from_an_incomplete_result(found: list[dict[str, Any]]) -> None:
    result = condensed(found)
    rows = accuracies(result, "table-1")
    assert len(rows) == 4
    assert rows[2].startswith("| 40 | 20 | vanilla | – | ")
    (gain,) = differences(result, "table-1")[2:]
    assert gain.startswith("| 40 | 20 | least action, λ0 = 1 | vanilla | ")
    assert ", p " in gain
    for lines in (accuracies(result, "table-2"), differences(result, "table-2"), correlation(result)):
        assert len(lines) == 2
    for lines in (rows, differences(result, "table-1"), correlation(result)):
        assert len({line.count("|") for line in lines}) == 1
    single = condensed(found[:1])
    assert accuracies(single, "table-1")[2].endswith("| 1 |")
    assert differences(single, "table-1")[2:] == []


def test_published_figures_stand_beside_ours(found: list[dict[str, Any]]) -> None:
    published = [{**f, "setting": {**f["setting"], "images": 100}} for f in found]
    rows = accuracies(condensed(published), "table-1")
    assert "| 56.4 ± 1.5 |" in rows[2]
    assert "| 70.0 ± 1.0 |" in rows[3]


def test_the_figure_and_its_correlation(tmp_path: Path, rng: np.random.Generator, found: list[dict[str, Any]]) -> None:
    costs = 10.0 ** np.arange(-3, 3)
    points = [
        {
            **found[0], "transport_cost": float(cost), "accuracy": 0.9 - 0.1 * i,
            "setting": {
                **found[0]["setting"], "experiment": "figure-11",
                "recipe": {**RECIPE, "initialization": "normal" if i % 2 else "orthogonal", "gain": float(cost)},
            },
        }
        for i, cost in enumerate(costs)
    ]  # fmt: skip
    result = condensed(points)
    figure = result["experiments"]["figure-11"]
    assert figure["log_correlation"]["accuracy"]["pearson"]["r"] == pytest.approx(-1)
    assert figure["correlation"]["accuracy"]["spearman"]["r"] == pytest.approx(-1)
    assert -1 < figure["correlation"]["accuracy"]["pearson"]["r"] < 0
    assert len(correlation(result)) == 6
    draw(result["experiments"], tmp_path / "images")
    with Image.open(tmp_path / "images" / "transport-cost-accuracy.png") as image:
        assert len(set(image.convert("L").tobytes())) > 20


def test_the_settings_can_be_trained_and_compared() -> None:
    every = settings()
    assert {setting.experiment for setting in every} == {name for names in RESULTS.values() for name in names}
    for setting in every:
        Recipe(**setting.recipe, seed=0)
        build_objective(setting.objective, setting.options)
        assert setting.network in NETWORKS.names()
        assert setting.recipe["batch_size"] <= setting.images
        # A method is compared with the first of its row, which has one name per method.
        assert sum(each.method == setting.method and _row(each) == _row(setting) for each in every) == 1
    identities = {Instance(setting, replace(DIGITS, name=setting.dataset), 0).path(Path()) for setting in every}
    assert len(identities) == len(every)
    assert len(instances([s for s in every if s.experiment == "figure-11"], {"mnist": DIGITS}, 0)) >= 20


def _row(setting: Setting) -> tuple[object, ...]:
    batch, blocks = setting.recipe["batch_size"], setting.arguments.get("blocks")
    return setting.experiment, setting.dataset, setting.images, setting.network, batch, blocks


def test_every_module_is_tested_and_compared_with_its_own_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"modules": 2, "mode": "parallel"}
    greedy = replace(
        VANILLA, experiment="figure-43", method="VanGL", objective="module_wise", options=options, tracked=0
    )
    regular = replace(greedy, method="TRGL, τ = 0.5", options={**options, "tau": 0.5})
    whole = replace(VANILLA, experiment="figure-43", method="end to end", tracked=0)
    monkeypatch.setattr(small_sets, "settings", lambda: [greedy, regular, whole])
    every = [run_instance(Instance(each, DIGITS, 0), tmp_path) for each in (greedy, regular, whole)]
    assert [len(figures["modules"]) for figures in every] == [2, 2, 0]
    for figures in every[:2]:
        assert figures["modules"][-1] == pytest.approx(figures["accuracy_with_averages_anew"])
    result = condensed(every)
    lines = modules(result)[2:]
    assert [line.split(" | ")[2] for line in lines] == ["VanGL", "TRGL, τ = 0.5", "end to end"]
    assert lines[-1].endswith(" | 1.00 |")
    assert "| – |" in lines[0]
    draw(result["experiments"], tmp_path)
    assert (tmp_path / "accuracy-after-modules.png").is_file()


def test_a_row_per_depth(found: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = [
        {**f, "setting": {**f["setting"], "experiment": "figure-14", "arguments": {"blocks": blocks}}}
        for f in found
        for blocks in (10, 2)
    ]
    lines = depths(condensed(deeper))
    assert lines[0] == "| blocks | vanilla | least action, λ0 = 1 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 2", "| 10"]


def test_accuracy_during_training_is_drawn(tmp_path: Path, found: list[dict[str, Any]]) -> None:
    large = [{**f, "setting": {**f["setting"], "experiment": "table-18", "images": 1000}} for f in found]
    draw(condensed(large)["experiments"], tmp_path)
    assert (tmp_path / "accuracy-during-training.png").is_file()


def test_instances_run_number_by_number_so_that_pairs_are_complete_early() -> None:
    made = instances([VANILLA, LEAST_ACTION], {"digits": DIGITS}, 0, 2)
    assert [(each.number, each.setting.method) for each in made] == [
        (number, setting.method) for number in (0, 1) for setting in (VANILLA, LEAST_ACTION)
    ]
    assert instances([VANILLA], {}, 0) == []


def test_sources_follow_use(tmp_path: Path) -> None:
    every = sources({}, tmp_path)
    assert {name: (each.train, each.test, each.side) for name, each in every.items()} == {
        "mnist": ("mnist", "mnist", None), "cifar10": ("cifar10", "cifar10", None),
        "cifar10-16": ("cifar10", "cifar10", 16), "cifar100": ("cifar100", "cifar100", None),
    }  # fmt: skip
    used = sources({"mnist": "npz:a.npz", "cifar10": "npz:b.npz", "cifar10-test": "npz:c.npz"}, tmp_path)
    assert (used["mnist"].test, used["cifar10"].test) == (None, "npz:c.npz")
    assert list(sources({"mnist": "npz:a.npz"}, tmp_path)) == ["mnist"]
