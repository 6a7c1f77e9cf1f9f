"""Evaluations of a small network: fitted and tested images are disjoint, and finished steps are cached."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks import build_attack, generate
from detector.detectors.knn import KNN
from detector.detectors.transport import Transport
from models.datasets.base import ImageDataset
from models.errors import InputError
from models.features import Features, extract_features
from service.cache import EvaluationCache
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.plan import plan_evaluation
from service.evaluation.planning.protocols import chosen_originals, default_split, outlier_parts, runs_of
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.records import NATURAL, VOTES, Evaluation, noisy_name
from service.evaluation.running import recipes as set_recipes
from service.evaluation.running.extraction import extract_sets
from service.evaluation.running.run import run_evaluation
from service.evaluation.summary.figures import figures
from tests.service.small_evaluation import loaded_network, noise, settings, small_digits

pytestmark = pytest.mark.slow


class InterruptionError(Exception):
    """Stands for an interruption by the user."""


def evaluated(
    wishes: EvaluationSettings,
    seed: int,
    *,
    count: int = 200,
    on_step: Callable[[str], None] | None = None,
    data: ImageDataset | None = None,
    **more: Any,
) -> Evaluation:
    inputs = EvaluationInputs(data=data or small_digits(count), network=loaded_network(seed), **more)
    return run_evaluation(plan_evaluation(inputs, wishes), progress=False, on_step=on_step)


def without_times(evaluation: Evaluation) -> dict[str, Any]:
    """The figures without times."""
    found = figures(evaluation, resamples=0)
    for entry in found["sets"]:
        del entry["seconds_per_image"]
    del found["costs"]
    return found


def test_nothing_that_is_fitted_or_calibrated_on_is_tested(seed: int) -> None:
    wishes = settings(
        test_on=("fgm", "bim:steps=2"), fit_on=("bim:steps=2",), attack_limit={"bim": 60}, seed=seed,
        split="0.5,0.2,0.3",
    )  # fmt: skip
    data = small_digits(200)
    evaluation = evaluated(wishes, seed, data=data)
    runs = runs_of("sound", data.labels, [60], runs=2, split="0.5,0.2,0.3", seed=seed)
    few = chosen_originals(200, 60, seed)
    assert np.array_equal(evaluation.sets["bim:steps=2"].originals, few)
    assert evaluation.runs == (0, 1)
    for detector_result in evaluation.detector_results:
        run = runs[detector_result.run]
        for name, rows in detector_result.rows.items():
            originals = evaluation.sets[name].originals[rows]
            assert np.isin(originals, run.test).all()
            assert not np.isin(originals, np.concatenate([run.fit, run.calibrate])).any()
        assert np.array_equal(evaluation.sets[NATURAL].originals[detector_result.rows[NATURAL]], run.test)
        assert set(evaluation.sets["bim:steps=2"].originals[detector_result.rows["bim:steps=2"]]) == set(few) & set(
            run.test
        )
        assert detector_result.calibrated_on == len(run.calibrate)
    fits = {(each.detector, each.fitted_on) for each in evaluation.detector_results}
    assert fits == {
        *((name, ("bim:steps=2",)) for name in ("transport:num_trees=10", "pixel_statistics")),
        ("pixel_statistics", ("fgm",)), ("max_softmax", ()), ("energy", ()),
    }  # fmt: skip
    assert all(each.baseline == (each.detector != "transport:num_trees=10") for each in evaluation.detector_results)


def test_an_interrupted_evaluation_resumes_with_the_same_figures(tmp_path: Path, seed: int) -> None:
    wishes = settings(runs=1, test_on=("fgm", "bim:steps=2"), fit_on=("all",), cache=tmp_path / "whole", seed=seed)
    steps: list[str] = []
    whole = evaluated(wishes, seed, count=120, on_step=steps.append)
    assert {"natural", "fgm", "bim:steps=2", "energy in run 0"} <= set(steps)
    interrupted = replace(wishes, cache=tmp_path / "cut")
    for last in (2, len(steps) - 2):
        done: list[str] = []

        def stop(step: str, done: list[str] = done, last: int = last) -> None:
            done.append(step)
            if len(done) == last:
                raise InterruptionError

        with pytest.raises(InterruptionError):
            evaluated(interrupted, seed, count=120, on_step=stop)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.safetensors")}
    resumed = evaluated(interrupted, seed, count=120)
    assert without_times(resumed) == without_times(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(before) < len(list((tmp_path / "cut").rglob("*.safetensors")))
    without_cache = evaluated(replace(wishes, cache=None), seed, count=120)
    assert without_times(without_cache) == without_times(whole)


def test_a_finished_evaluation_is_read_from_the_cache(tmp_path: Path, seed: int) -> None:
    wishes = settings(cache=tmp_path, seed=seed, runs=1)
    first = evaluated(wishes, seed, count=120)
    for shard in tmp_path.glob("fgm-*/shard-*.safetensors"):
        shard.unlink()
    again = evaluated(wishes, seed, count=120)
    assert figures(again, resamples=5) == figures(first, resamples=5)  # with the first one's times
    assert not list(tmp_path.glob("fgm-*/shard-*.safetensors"))
    assert first.sets["fgm"].costs["attack"]
    assert first.sets["fgm"].costs["network"]


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path, seed: int) -> None:
    wishes = settings(cache=tmp_path, seed=seed, runs=1)
    first = evaluated(wishes, seed, count=120)
    for path in (tmp_path / "evaluation").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    assert without_times(evaluated(wishes, seed, count=120)) == without_times(first)


def test_sets_are_attacked_once_for_all_runs_detectors_and_fits(tmp_path: Path, seed: int) -> None:
    wishes = settings(
        test_on=("fgm",), fit_on=("fgm", "fgm+bim:steps=2"), cache=tmp_path, seed=seed,
        detectors=("transport:num_trees=5", "mahalanobis:num_trees=5"),
    )  # fmt: skip
    evaluated(wishes, seed, count=150)
    folders = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if path.name != "evaluation")
    assert folders == ["bim", "fgm"]
    assert len(list(tmp_path.glob("*/shard-*.safetensors"))) == 2


def test_eight_bit_images_lie_on_the_grid_and_success_is_counted_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def watched(network: Any, images: Any, *rest: Any, **more: Any) -> Any:
        seen.append(np.asarray(images))
        return extract_features(network, images, *rest, **more)

    monkeypatch.setattr("service.evaluation.running.sets.extract_features", watched)
    data = small_digits(120)
    wishes = settings(test_on=("deepfool:steps=10",), fit_on=("deepfool:steps=10",), eight_bit=True, runs=1, seed=seed)
    evaluation = evaluated(wishes, seed, data=data)
    rounded = seen[-1]
    assert np.array_equal(rounded, np.round(rounded * 255).astype(np.float32) / np.float32(255))
    attacked = evaluation.sets["deepfool:steps=10"]
    network = loaded_network(seed).network
    made = generate(
        network, data.tensor(), data.labels, build_attack("deepfool", {"steps": 10, "seed": seed}), progress=False
    )
    assert np.array_equal(rounded, np.round(made.images * np.float32(255)) / np.float32(255))
    assert attacked.success is not None
    assert attacked.attack is not None
    assert np.array_equal(attacked.success, made.natural_correct & ~attacked.right)
    # An attack that stops at the boundary does not survive it; the set says so, and what it moved after rounding.
    assert attacked.success.sum() < made.success.sum()
    assert attacked.attack["eight_bit"]
    assert attacked.attack["success_rate"] == pytest.approx(attacked.success.sum() / made.natural_correct.sum())
    moved = np.abs(rounded - data.tensor().numpy()).reshape(120, -1)
    assert attacked.attack["linf"]["median"] == pytest.approx(np.median(moved.max(axis=1)))
    assert attacked.attack["l2"]["max"] == pytest.approx(np.sqrt(np.square(moved).sum(axis=1)).max(), rel=1e-5)
    assert figures(evaluation, resamples=0)["sets"][1]["eight_bit"]


def test_rounded_images_stay_within_the_budget(seed: int) -> None:
    wishes = settings(test_on=("fgm",), epsilon="0.03", eight_bit=True, runs=1, seed=seed)
    attacked = evaluated(wishes, seed, count=100).sets["fgm"].attack
    assert attacked is not None
    assert attacked["linf"]["max"] == pytest.approx(7 / 255, rel=1e-5)  # 0.03 is 7.65 grey levels
    whole = evaluated(replace(wishes, epsilon="8/255"), seed, count=100).sets["fgm"].attack
    assert whole is not None
    assert whole["linf"]["max"] == pytest.approx(8 / 255, rel=1e-5)


def test_the_papers_protocol_fits_on_nine_tenths_and_decides_at_a_vote_of_a_half(seed: int) -> None:
    wishes = settings(protocol="paper", runs=1, split=None, noisy=True, seed=seed)
    data = small_digits(200)
    evaluation = evaluated(wishes, seed, data=data)
    (run,) = runs_of("paper", data.labels, [], runs=1, seed=seed)
    assert default_split("paper") == "0.9,0.1"
    copies = evaluation.sets[noisy_name("fgm")]
    assert (copies.kind, len(copies)) == ("natural", 200)
    detector_result = next(each for each in evaluation.detector_results if not each.baseline)
    assert (detector_result.thresholds, detector_result.calibrated_on) == ({}, None)
    assert {name: len(rows) for name, rows in detector_result.rows.items()} == dict.fromkeys(
        (NATURAL, "fgm", noisy_name("fgm")), len(run.test)
    )
    natural = [
        np.maximum(*(detector_result.components[name][vote] for vote in VOTES)) for name in (NATURAL, noisy_name("fgm"))
    ]
    before = np.concatenate(natural)
    after = np.maximum(*(detector_result.components["fgm"][vote] for vote in VOTES))
    summary = figures(evaluation, resamples=0)["results"][0]["runs"][0]["paper"]
    assert summary["accuracy"] == pytest.approx(
        ((before < 0.5).sum() + (after >= 0.5).sum()) / (len(before) + len(after))
    )
    assert summary["fpr"] == pytest.approx((before >= 0.5).mean())


def test_noisy_copies_are_as_large_as_the_attack(seed: int) -> None:
    data = small_digits(40)
    like = {"originals": np.arange(40)}
    uniform, fgm = {"linf": {"median": 0.05}}, build_attack("fgm", {"epsilon": 0.1})
    found = set_recipes.noisy("fgm", fgm, data, {**like, "attack": uniform}, False, seed).make().images
    moved = np.abs(found - data.tensor().numpy())
    assert 0.09 < moved.max() <= 0.1 + 1e-6
    gaussian, deepfool = {"l2": {"median": 2.0}}, build_attack("deepfool", {})
    grey = replace(data, images=np.full_like(data.images, 128))
    found = set_recipes.noisy("deepfool", deepfool, grey, {**like, "attack": gaussian}, False, seed).make().images
    sizes = np.sqrt(np.square(found - grey.tensor().numpy()).reshape(40, -1).sum(axis=1))
    assert np.median(sizes) == pytest.approx(2.0, rel=0.1)
    assert found.min() >= 0
    assert found.max() <= 1


def test_blocks_directions_and_successful_attacks_to_fit_on(seed: int) -> None:
    wishes = settings(
        seed=seed, of="embeddings", directions=2, blocks="stages.stage*.*", fit_successful=True, runs=1,
        detectors=("transport:num_trees=5", "transport:num_trees=5:norms_only=true"),
    )  # fmt: skip
    inputs = EvaluationInputs(data=small_digits(200), network=loaded_network(seed))
    plan = plan_evaluation(inputs, wishes)
    assert [branch.name.split(".", 1)[1] for branch in plan.subject.discovery.branches] == [
        "stages.stage1.0", "stages.stage2.0", "stages.stage3.0",
    ]  # fmt: skip
    sets, scorer = extract_sets(plan, EvaluationCache(None), lambda _: None, progress=False)
    assert sets[NATURAL].features.statistics.shape == (200, 3 * 4)
    run = plan.splits.runs[0]
    for label, columns in zip(wishes.detectors or (), (12, 3), strict=True):
        detector = plan.selection.detectors[label]
        fitted, _ = scorer.fitted(label, detector, scorer.fitting(run, detector, ("fgm",), {}))
        assert isinstance(fitted, Transport)
        assert fitted.column_count_ == columns
        attacked = sets["fgm"]
        assert attacked.images.success is not None
        rows = attacked.rows_of(run.fit)
        successful = rows[attacked.images.success[rows]]
        assert 0 < len(successful) < len(rows)
        expected = copy.deepcopy(detector).fit(sets[NATURAL].take(run.fit, []), attacked.take(successful, []))
        features = sets[NATURAL].features
        assert np.array_equal(fitted.score(features), expected.score(features))


def test_outliers_that_are_fitted_on_are_not_tested_and_are_as_many_as_natural_images(seed: int) -> None:
    wishes = settings(detectors=("transport:num_trees=10", "transport_cost"), fit_ood=("noise",), test_on=(), seed=seed)
    others = {"noise": noise(500, seed), "more": noise(60, seed + 1, "more")}
    evaluation = evaluated(wishes, seed, outliers=others)
    assert list(evaluation.sets) == [NATURAL, "ood:noise", "ood:more"]
    assert len(evaluation.sets["ood:noise"]) == 200  # no more than there are natural images
    runs = runs_of("sound", small_digits(200).labels, [], runs=2, split="0.5,0.25,0.25", seed=seed)
    for detector_result in evaluation.detector_results:
        run = runs[detector_result.run]
        fitted, rest = outlier_parts(200, run, "0.5,0.25,0.25", "sound", seed)
        assert not np.isin(detector_result.rows["ood:noise"], fitted).any()
        assert np.isin(detector_result.rows["ood:noise"], rest).all()
        assert len(detector_result.rows["ood:noise"]) == len(detector_result.rows["ood:more"]) == len(run.test)
    fits = {(each.detector, each.fitted_on) for each in evaluation.detector_results}
    assert fits == {
        ("transport:num_trees=10", ("ood:noise",)), ("pixel_statistics", ("ood:noise",)), ("transport_cost", ()),
        ("max_softmax", ()), ("energy", ()),
    }  # fmt: skip
    found = {(e["detector"], e["tested_on"]): e for e in figures(evaluation, resamples=0)["results"]}
    entry = found["transport:num_trees=10", "ood:noise"]
    assert (entry["kind"], entry["seen"], entry["mean"]["successful"]) == ("outlier", True, None)
    assert entry["mean"]["all"]["auroc"] > 0.9
    assert found["transport:num_trees=10", "ood:more"]["seen"] is False


def test_an_image_in_two_sets_is_left_out_of_the_tested_one(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    wishes = settings(detectors=("transport_cost",), fit_ood=("noise",), test_on=(), runs=1, seed=seed)
    fitted, data = noise(50, seed), small_digits(100)
    both = replace(noise(60, seed + 1, "more"), images=np.concatenate([fitted.images[:20], noise(40, seed + 1).images]))
    natural = replace(noise(30, seed + 2, "mixed"))
    natural.images[:10] = data.images[:10]
    evaluation = evaluated(wishes, seed, data=data, outliers={"noise": fitted, "more": both, "mixed": natural})
    assert {name: len(each) for name, each in evaluation.sets.items()} == {
        NATURAL: 100, "ood:noise": 50, "ood:more": 40, "ood:mixed": 20,
    }  # fmt: skip
    assert "20 of 60 images of more are in another set and are left out" in capsys.readouterr().err
    with pytest.raises(InputError, match="outliers in same"):
        evaluated(wishes, seed, data=data, outliers={"noise": fitted, "same": replace(fitted, name="same")})


def test_the_networks_own_data_are_no_outliers(seed: int) -> None:
    for name in ("digits", "npz:somewhere/digits-train.npz"):
        with pytest.raises(InputError, match="from another data set than digits"):
            evaluated(settings(), seed, outliers={name: noise(50, seed, name)})


def test_copies_of_an_image_are_in_one_part_only(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    once = small_digits(150)
    thrice = once.take(np.tile(np.arange(150), 3))
    evaluation = evaluated(settings(runs=1, detectors=("transport_cost",), seed=seed), seed, data=thrice)
    assert len(evaluation.sets[NATURAL]) == len(once)
    assert "300 of 450 images of digits are copies of others and are left out" in capsys.readouterr().err


def test_rounding_and_noise_are_made_again_when_their_code_changes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, fgm = small_digits(20), build_attack("fgm", {"epsilon": 0.1})
    network = loaded_network(seed).network

    def keys() -> list[dict[str, Any]]:
        like = {"originals": np.arange(20), "attack": {"linf": {"median": 0.1}}}
        rounded, plain = (
            set_recipes.attacked(
                "fgm", fgm, data, np.arange(20), network, eight_bit=eight_bit, cache=None, workers=1, device="cpu",
                progress=False,
            )
            for eight_bit in (True, False)
        )  # fmt: skip
        return [rounded.key, set_recipes.noisy("fgm", fgm, data, like, False, seed).key, plain.key]

    before = keys()
    monkeypatch.setattr(set_recipes, "code_digest", lambda *modules: "other")
    after = keys()
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_an_evaluation_on_training_images_warns(seed: int) -> None:
    wishes = settings(runs=1, detectors=("transport_cost",), seed=seed)
    for trained_on in (True, False):
        found = figures(evaluated(wishes, seed, count=120, trained_on=trained_on), resamples=0)
        assert any("trained on these very images" in warning for warning in found["warnings"]) is trained_on


def test_a_detector_is_prepared_with_images_that_it_is_not_fitted_on(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[np.ndarray] = []
    fitted: list[np.ndarray] = []
    prepare, fit = KNN._prepare, KNN._fit

    def watch_prepare(self: KNN, reference: Features, labels: np.ndarray) -> None:
        prepared.append(reference.logits)
        prepare(self, reference, labels)

    def watch_fit(self: KNN, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        fitted.append(natural.logits)
        fit(self, natural, adversarial, labels)

    monkeypatch.setattr(KNN, "_prepare", watch_prepare)
    monkeypatch.setattr(KNN, "_fit", watch_fit)
    wishes = settings(detectors=("knn:k=3:num_trees=5",), runs=1, seed=seed)
    evaluated(wishes, seed)
    known = {tuple(row) for row in prepared[-1]}
    assert len(prepared[-1]) == 25
    assert len(fitted[-1]) == 75
    assert not known & {tuple(row) for row in fitted[-1]}
    evaluated(wishes, seed, reference=small_digits(90, first=900))
    assert len(prepared[-1]) == 90
    assert len(fitted[-1]) == 100
    with pytest.raises(InputError, match="compared with itself"):
        evaluated(wishes, seed, reference=small_digits(90, first=150))


def test_budgets_are_sets_of_their_own_that_nothing_was_fitted_on(seed: int) -> None:
    wishes = settings(runs=1, budgets=("4/255",), fit_on=("fgm",), seed=seed)
    evaluation = evaluated(wishes, seed, count=120)
    weak, strong = evaluation.sets["fgm:epsilon=4/255"], evaluation.sets["fgm"]
    assert weak.attack is not None
    assert strong.attack is not None
    assert weak.attack["linf"]["max"] <= 4 / 255 + 1e-6 < strong.attack["linf"]["max"]
    summary = [entry for entry in figures(evaluation, resamples=0)["results"] if entry["fitted_on"] == ["fgm"]]
    assert {entry["tested_on"]: entry["seen"] for entry in summary} == {"fgm": True, "fgm:epsilon=4/255": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "0.5,0.45,0.05", "attack_limit": {"fgm": 5}}, "raise --limit or --attack-limit"),
        ({"fpr": 0.001}, "or raise the second share of --split or --fpr"),
        ({"split": "0.9,0.1"}, "for --protocol sound"),
        ({"fit_ood": ("tiny",)}, "at least 10 images of ood:tiny"),
        ({"runs": 0}, "--runs of at least one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_unusable_settings_are_refused_before_any_attack(
    changes: dict[str, Any], message: str, tmp_path: Path, seed: int
) -> None:
    with pytest.raises(InputError, match=message):
        evaluated(settings(cache=tmp_path, seed=seed, **changes), seed, count=80, outliers={"tiny": noise(5, 0)})
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_are_refused(seed: int) -> None:
    large = noise(50, seed)
    large = replace(large, images=large.images.repeat(2, axis=2).repeat(2, axis=3))
    with pytest.raises(InputError, match=r"\(3, 16, 16\) in ood:noise, got \(3, 32, 32\)"):
        evaluated(settings(), seed, outliers={"noise": large})
    with pytest.raises(InputError, match="--network or --artifact"):
        plan_evaluation(EvaluationInputs(data=small_digits(50)), settings())
