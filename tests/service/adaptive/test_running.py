"""Adaptive attacks on small fitted pipelines: what they claim is so, and they succeed and fail where they have to."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from attacks import build_attack
from attacks.adaptive.result import AdaptiveResult
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.common.result import ScoreResult
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.detectors.transport import Transport
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.errors import InputError
from models.features import Features, extract_features
from models.residuals import StatisticsSpec, discover
from service.adaptive.agreement import Agreement, Sides
from service.adaptive.budgets import Budgets
from service.adaptive.exact import exact_margins
from service.adaptive.records import AdaptiveAttacks, AdaptiveSet
from service.adaptive.running import attack_adaptively, run_adaptive
from service.adaptive.settings import ADAPTIVE_ATTACKS
from service.adaptive.summary import adaptive_figures
from service.adaptive.surrogate import fitted_surrogate, inputs_and_margins
from service.adaptive.system import System
from service.cli.evaluation_options import settings_of
from service.cli.main import _parser
from service.evaluation.settings import EvaluationSettings
from tests.attacks.digits import digits
from tests.conftest import SEED

COUNT = 16
BUDGETS = dataclasses.replace(Budgets.small(), descent_steps=10, surrogate_rounds=1, matching_steps=12)


class OnlyClass(Detector):
    """Flags whatever is not predicted as one class: on images of that class, exactly the misclassified ones."""

    def __init__(self, *, trusted: int = 0) -> None:
        self.trusted = trusted

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        pass

    def _score(self, features: Features) -> ScoreResult:
        return ScoreResult((features.predicted != self.trusted).astype(np.float64), {})

    def _state(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        pass


@functools.cache
def all_digits() -> tuple[torch.Tensor, torch.Tensor]:
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    return F.interpolate(images, scale_factor=2).contiguous(), torch.tensor(bunch.target, dtype=torch.int64)


def pipeline_of(detector: Detector, *, fpr: float = 0.1) -> Pipeline:
    """Fitted where it needs to be on Carlini and Wagner's images, and calibrated, on digits of their own."""
    network = digits(SEED).network.requires_grad_(False)
    discovery = discover(network, (3, 16, 16))
    images, labels = all_digits()
    reference, fitting, held_out = slice(0, 300), slice(300, 420), slice(420, 600)

    def features(batch: torch.Tensor) -> Features:
        return extract_features(network, batch, discovery=discovery, feature_requests=detector.feature_requests())

    if detector.needs_reference:
        detector.prepare(features(images[reference]), labels[reference].numpy())
    natural, adversarial = features(images[fitting]), None
    if detector.needs_adversarial:
        attack = build_attack("carlini_wagner", BUDGETS.carlini_wagner)
        adversarial = features(attack(network, images[fitting], labels[fitting]))
    detector.fit(natural, adversarial)
    return Pipeline(
        network=network,  # type: ignore[arg-type]
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(features(images[held_out])), fpr),
        classes=[str(digit) for digit in range(10)],
        band=natural_band(natural.statistics),
        image_shape=(3, 16, 16),
    )


@pytest.fixture(scope="module")
def transport() -> Pipeline:
    return pipeline_of(Transport(num_trees=20, minimum_per_class=5, seed=SEED))


@pytest.fixture(scope="module")
def energy() -> Pipeline:
    return pipeline_of(Energy(), fpr=0.3)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return digits(SEED).images[:COUNT]


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return digits(SEED).labels[:COUNT]


def everything(found: AdaptiveAttacks) -> tuple[AdaptiveSet, ...]:
    return (*found.sets, *found.unlimited, *found.few_steps)


def check_claims(found: AdaptiveAttacks, pipeline: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Turned images pass when one asks the pipeline itself, are valid, and are inside the budget."""
    for one in everything(found):
        assert one.images.dtype == np.float32
        assert one.images.min() >= 0
        assert one.images.max() <= 1
        if one.epsilon is not None:
            assert np.abs(one.images - images.numpy()).max() <= one.epsilon + 1e-6
        assert not (one.evaded & ~one.attempted).any()
        assert np.array_equal(
            one.images[~one.evaded & ~one.not_confirmed], images.numpy()[~one.evaded & ~one.not_confirmed]
        )
        verdicts = pipeline.score(torch.from_numpy(one.images))
        passed = np.array([not verdict.flagged for verdict in verdicts])
        wrong = np.array([verdict.label for verdict in verdicts]) != labels.numpy()
        assert (passed & wrong)[one.evaded].all()
        assert (one.queries[one.attempted] > 0).all()
        assert not one.queries[~one.attempted].any()


@pytest.fixture(scope="module")
def on_transport(transport: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> AdaptiveAttacks:
    return attack_adaptively(
        transport, images, labels, budgets=BUDGETS, seed=SEED, progress=False, shard_size=12
    )  # fmt: skip


def test_what_is_turned_is_accepted_misclassified_valid_and_inside_the_budget(
    on_transport: AdaptiveAttacks, transport: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    check_claims(on_transport, transport, images, labels)
    assert {one.name for one in on_transport.sets} == set(ADAPTIVE_ATTACKS)
    assert on_transport.fooled is not None
    assert on_transport.detected is not None
    for one in on_transport.sets:
        by_fooled = one.name in ("black_box", "feature_matching")
        assert np.array_equal(one.attempted, on_transport.detected if by_fooled else on_transport.right)
    by_name = {one.name: one for one in on_transport.sets if one.epsilon is None}
    assert by_name["whole_system"].evaded.mean() > 0.5
    assert sum(one.evaded.sum() for one in on_transport.unlimited) > on_transport.right.sum()


def test_the_network_is_left_as_it_was_found(transport: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    before = [(p.requires_grad, p.grad, p.clone()) for p in transport.network.parameters()]
    run_adaptive(transport, images[:4], labels[:4], ["selective"], budgets=BUDGETS, progress=False)
    for parameter, (wanted, gradient, values) in zip(transport.network.parameters(), before, strict=True):
        assert (parameter.requires_grad, parameter.grad) == (wanted, gradient)
        assert torch.equal(parameter, values)
    assert not transport.network.training


def test_a_detector_that_is_easily_evaded_is_evaded(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """An image that the network is sure of, and wrong about, passes the energy: every attack finds some."""
    budgets = dataclasses.replace(
        BUDGETS, matching_steps=60, descent_steps=40, descent_restarts=2,
        epsilons=(64 / 255, 160 / 255),
    )  # fmt: skip
    found = attack_adaptively(energy, images, labels, budgets=budgets, seed=SEED, progress=False)
    check_claims(found, energy, images, labels)
    assert found.surrogate == "exact"
    assert found.detected is not None
    assert found.detected.sum() >= 3, "the energy was to detect images that are only just misclassified"
    for one in (*found.unlimited, *(one for one in found.sets if one.epsilon != 64 / 255)):
        # The black box needs a natural image of the very class, which may not be among so few.
        least = 1 if one.name == "black_box" else 0.6 * one.attempted.sum()
        assert one.evaded.sum() >= least, one.name


@pytest.mark.parametrize("decision", ["all flagged", "misclassified flagged"])
def test_a_detector_that_flags_every_misclassified_image_is_never_evaded(decision: str) -> None:
    images, labels = all_digits()
    network = digits(SEED).network
    with torch.no_grad():
        predicted = network(images).argmax(1)
    if decision == "misclassified flagged":
        pipeline = pipeline_of(OnlyClass(trusted=3))
        pipeline.calibration = Calibration(np.zeros(50), 0.1)
        rows = ((labels == 3) & (predicted == 3)).nonzero().squeeze(1)[:8]
    else:
        pipeline = pipeline_of(Energy())
        pipeline.calibration = Calibration(np.full(50, -1e6), 0.1)
        rows = (labels == predicted).nonzero().squeeze(1)[:8]
    found = attack_adaptively(pipeline, images[rows], labels[rows], budgets=BUDGETS, seed=SEED, progress=False)
    assert found.detected is not None
    assert found.detected.sum() == found.fooled.sum() > 0
    assert not any(one.evaded.any() for one in everything(found))
    figures = run_adaptive(pipeline, images[rows], labels[rows], ["orthogonal"], budgets=BUDGETS, progress=False)
    accepted = 1.0 if decision == "misclassified flagged" else 0.0
    assert [row["robust"] for row in figures["robustness"]] == [accepted, accepted]
    assert any("without a budget" in warning for warning in figures["warnings"])


def test_an_interrupted_run_goes_on_where_it_was(
    transport: Pipeline,
    images: torch.Tensor,
    labels: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import service.adaptive.running as driver

    real, calls, broken = driver.descend, [], [True]

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options["kind"])
        if broken[0] and len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args, **options)

    def run(cache: Path | None) -> dict[str, Any]:
        names = ["selective", "feature_matching"]
        return run_adaptive(
            transport, images, labels, names, budgets=BUDGETS, cache=cache, shard_size=10, progress=False, seed=SEED
        )

    whole = run(None)
    monkeypatch.setattr(driver, "descend", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    done = len(list(tmp_path.glob("adaptive-selective-*/shard-*")))
    assert done
    calls.clear()
    broken[0] = False
    resumed = run(tmp_path)
    jobs = 4  # two budgets, none, few steps
    shards = -(-resumed["attacks"]["selective"]["unlimited"]["attempted"] // 10)
    assert len(calls) == jobs * shards - done  # and the surrogate is not fitted again
    assert resumed == whole
    calls.clear()
    assert run(tmp_path) == whole
    assert not calls


def test_what_is_kept_is_of_this_detector_and_decision(
    transport: Pipeline, energy: Pipeline, images: torch.Tensor, labels: torch.Tensor, tmp_path: Path
) -> None:
    def folders(pipeline: Pipeline, **options: Any) -> set[str]:
        run_adaptive(
            pipeline,
            images[:6],
            labels[:6],
            ["whole_system"],
            budgets=BUDGETS,
            cache=tmp_path,
            progress=False,
            **options,
        )
        return {path.name for path in tmp_path.iterdir()}

    kept = [len(folders(transport)), len(folders(transport)), len(folders(transport, decision="vote"))]
    assert kept == [1, 1, 2]
    assert len(folders(transport, decision="vote", ensemble=False)) == 3
    assert len(folders(energy)) == 4
    assert len(folders(energy, seed=7)) == 5


def test_what_is_kept_is_of_this_code_and_these_fooled_images(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service.adaptive.running as driver

    def folders(**budgets: Any) -> dict[str, int]:
        names, few = ["black_box", "selective"], dataclasses.replace(BUDGETS, **budgets)
        run_adaptive(transport, images[:6], labels[:6], names, budgets=few, cache=tmp_path, progress=False)
        kept = [path.name for path in tmp_path.iterdir()]
        wanted = ("black_box", "selective", "surrogate")
        return {name: sum(each.startswith(f"adaptive-{name}-") for each in kept) for name in wanted}

    selective = 2 + 1 + 1  # budgets, none, few steps
    assert folders() == {"black_box": 1, "selective": selective, "surrogate": 1}
    assert folders() == {"black_box": 1, "selective": selective, "surrogate": 1}
    assert folders(queries=100) == {"black_box": 2, "selective": selective, "surrogate": 1}
    assert folders(descent_steps=8) == {"black_box": 2, "selective": 2 * selective, "surrogate": 2}

    real = driver.generate

    def others(*given: Any, **options: Any) -> Any:
        made = real(*given, **options)
        return dataclasses.replace(made, images=(made.images * np.float32(0.99)))

    monkeypatch.setattr(driver, "generate", others)
    assert folders() == {"black_box": 3, "selective": 3 * selective, "surrogate": 3}
    monkeypatch.setattr(driver, "code_digest", lambda *modules: "edited")
    assert folders() == {"black_box": 4, "selective": 4 * selective, "surrogate": 4}
    monkeypatch.setattr(driver, "code_closure", lambda module: "edited")
    assert folders() == {"black_box": 5, "selective": 5 * selective, "surrogate": 5}


def test_one_vote_alone_and_the_paper_s_decision(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    found = attack_adaptively(
        transport, images, labels, ["orthogonal", "whole_system"], budgets=BUDGETS, decision="vote", ensemble=False,
        seed=SEED, progress=False,
    )  # fmt: skip
    evaded = [(one.images[one.evaded], labels.numpy()[one.evaded]) for one in found.sets if one.evaded.any()]
    assert evaded
    for batch, truth in evaded:
        verdicts = transport.score(torch.from_numpy(batch))
        assert all(verdict.components["all_class"] < 0.5 for verdict in verdicts)
        assert all(verdict.label != label for verdict, label in zip(verdicts, truth, strict=True))


def test_figures_are_json_and_agree_with_the_sets(on_transport: AdaptiveAttacks) -> None:
    figures = adaptive_figures(on_transport, l2_limits=(1.0, 100.0), linf_limits=(1.0,))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["images"] == COUNT
    assert figures["natural"]["accuracy"] == on_transport.right.mean()
    for one in on_transport.sets:
        if one.epsilon is not None:
            continue
        row = figures["attacks"][one.name]
        assert (row["attempted"], row["evaded"]) == (one.attempted.sum(), one.evaded.sum())
        near, far, everywhere = row["within"]
        assert near["evaded"] == (one.evaded & (one.l2 <= 1)).sum()
        assert far["evaded"] == everywhere["evaded"] == row["evaded"]
        if row["attempted"]:
            assert row["interval"][0] <= row["share"] <= row["interval"][1]
    for kind in ("selective", "orthogonal"):
        small, large = figures["attacks"][kind]["budgets"]
        assert small["epsilon"] < large["epsilon"]
        assert small["evaded"] <= large["evaded"]
        assert figures["attacks"][kind]["all_steps"]["attempted"] == on_transport.right.sum()
    robust = [row["robust"] for row in figures["robustness"]]
    assert robust == sorted(robust, reverse=True)
    for row in figures["robustness"]:
        within = [one.evaded & (one.linf <= row["epsilon"] + 1e-6) for one in everything(on_transport)]
        within.append(
            on_transport.fooled & ~on_transport.detected & (on_transport.fooled_linf <= row["epsilon"] + 1e-6)
        )
        broken = np.logical_or.reduce(within)
        assert row["robust"] == (on_transport.right & ~on_transport.flagged & ~broken).mean()
        assert row["implied_epsilon"] == row["epsilon"] / 2
        assert f"{row['epsilon'] * 255 / 2:.3g}/255" in row["sentence"]


# --- figures of hand-made finds


def made_by_hand(count: int, **changes: Any) -> AdaptiveAttacks:
    """Nothing found by anyone, of images that are all right, accepted, and fooled and detected at a distance."""

    def nothing(name: str, epsilon: float | None) -> AdaptiveSet:
        no, zeros, none = np.zeros(count, np.bool_), np.zeros(count), np.zeros(count, np.int64)
        return AdaptiveSet(
            name, epsilon, np.zeros((count, 3, 2, 2), np.float32), ~no, no, no, zeros, zeros, None, none, none, {}
        )

    kinds = ("selective", "orthogonal")
    budgeted = tuple(nothing(kind, epsilon) for kind in kinds for epsilon in (0.1, 0.2))
    found = AdaptiveAttacks(
        right=np.ones(count, np.bool_),
        flagged=np.zeros(count, np.bool_),
        fooled=np.ones(count, np.bool_),
        detected=np.ones(count, np.bool_),
        fooled_linf=np.full(count, 0.05),
        fooled_l2=np.full(count, 0.3),
        sets=(nothing("black_box", None), nothing("whole_system", None), *budgeted),
        unlimited=tuple(nothing(kind, 1.0) for kind in kinds),
        few_steps=tuple(nothing(kind, 0.2) for kind in kinds),
        surrogate="exact",
        skipped={},
    )
    return dataclasses.replace(found, **changes)


def with_find(one: AdaptiveSet, row: int, linf: float, l2: float) -> AdaptiveSet:
    evaded, near, far = one.evaded.copy(), one.linf.copy(), one.l2.copy()
    evaded[row], near[row], far[row] = True, linf, l2
    return dataclasses.replace(one, evaded=evaded, linf=near, l2=far)


@pytest.mark.parametrize(
    ("field", "index"),
    [(field, index) for field, count in (("sets", 6), ("unlimited", 2), ("few_steps", 2)) for index in range(count)],
)
def test_a_find_counts_against_robustness_whoever_made_it(field: str, index: int) -> None:
    found = made_by_hand(4)
    sets = list(getattr(found, field))
    sets[index] = with_find(sets[index], 2, 0.08, 0.7)
    figures = adaptive_figures(
        dataclasses.replace(found, **{field: tuple(sets)}), l2_limits=(0.5, 1.0), linf_limits=(0.07, 0.1)
    )
    assert [row["robust"] for row in figures["robustness"]] == [0.75, 0.75]
    assert (figures["union"]["evaded"], figures["union"]["attempted"]) == (1, 4)
    assert (figures["union"]["linf_median"], figures["union"]["l2_median"]) == (0.08, 0.7)
    assert [row["evaded"] for row in figures["union"]["within"]] == [0, 1, 0, 1]


def test_only_finds_within_the_distance_count_against_robustness() -> None:
    found = made_by_hand(4)
    sets = (with_find(found.sets[0], 0, 0.15, 1.0), *found.sets[1:])
    figures = adaptive_figures(dataclasses.replace(found, sets=sets), l2_limits=(1.0,), linf_limits=(0.1,))
    assert [(row["epsilon"], row["robust"]) for row in figures["robustness"]] == [(0.1, 1.0), (0.2, 0.75)]


def test_undetected_images_of_carlini_and_wagner_count_against_robustness() -> None:
    detected = np.array([True, False, True, False])
    found = made_by_hand(4, detected=detected, fooled_linf=np.array([0.05, 0.05, 0.05, 0.15]))
    figures = adaptive_figures(found, l2_limits=(1.0,), linf_limits=(0.1,))
    assert [row["robust"] for row in figures["robustness"]] == [0.75, 0.5]
    assert figures["union"]["evaded"] == 2
    without = made_by_hand(4, fooled=None, detected=None, fooled_linf=None, fooled_l2=None)
    assert adaptive_figures(without, l2_limits=(1.0,), linf_limits=(0.1,))["union"]["evaded"] == 0


def test_medians_are_over_what_is_counted_and_of_the_union_the_nearest() -> None:
    found = made_by_hand(3)
    small, large = found.sets[2], found.sets[3]
    sets = (
        with_find(found.sets[0], 0, 0.3, 0.2),
        found.sets[1],
        with_find(small, 0, 0.1, 0.9),
        with_find(with_find(large, 0, 0.2, 1.9), 1, 0.2, 1.5),
        *found.sets[4:],
    )
    figures = adaptive_figures(dataclasses.replace(found, sets=sets), l2_limits=(1.0,), linf_limits=(0.1,))
    rows = figures["attacks"]["selective"]["budgets"]
    assert [(row["evaded"], row["l2_median"]) for row in rows] == [(1, 0.9), (2, 1.2)]
    assert rows[1]["linf_median"] == pytest.approx(0.15)
    assert figures["union"]["l2_median"] == pytest.approx((0.2 + 1.5) / 2)
    assert figures["union"]["linf_median"] == pytest.approx((0.1 + 0.2) / 2)


def test_what_is_lost_is_told_of_checks_too() -> None:
    found = made_by_hand(2)
    not_confirmed = np.array([True, False])
    unlimited = (dataclasses.replace(found.unlimited[0], not_confirmed=not_confirmed), found.unlimited[1])
    figures = adaptive_figures(dataclasses.replace(found, unlimited=unlimited), l2_limits=(1.0,), linf_limits=(0.1,))
    assert figures["attacks"]["selective"]["unlimited"]["not_confirmed"] == 1
    assert any(text.startswith("selective, no budget: 1 images passed") for text in figures["warnings"])


# --- what an attacker is given


def test_the_surrogate_s_agreement_is_on_held_out_originals(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of a held-out original is among those fitted on; both sides of the threshold count alike."""
    import service.adaptive.surrogate as module

    real, fitted, noisy = module.fit_surrogate, list[torch.Tensor](), images + 0.01

    def fit(inputs: torch.Tensor, margins: torch.Tensor, **options: Any) -> Any:
        fitted.append(inputs)
        return real(inputs, margins, **options)

    monkeypatch.setattr(module, "fit_surrogate", fit)
    system = System(transport)
    _, agreement = fitted_surrogate(system, images, noisy, labels, BUDGETS, SEED)
    assert agreement.originals == 3
    assert agreement.plain.flagged + agreement.plain.passed == 4 * 3
    every = 2 * (BUDGETS.descent_steps // 4)  # of the iterates, in two balls
    assert agreement.descent.flagged + agreement.descent.passed == every * 3
    inputs = inputs_and_margins(system, [images])[0]
    last = fitted[-1]
    absent = [row for row in range(len(images)) if not (last == inputs[row]).all(1).any()]
    assert len(absent) == agreement.originals
    assert Agreement.from_array(agreement.to_array()) == agreement
    assert fitted_surrogate(system, images[:1], noisy[:1], labels[:1], BUDGETS, SEED)[1].originals == 0


def test_agreement_of_both_sides() -> None:
    sides = Sides(flagged=2, flagged_alike=1, passed=98, passed_alike=98)
    assert (sides.balanced, sides.worse) == (0.75, 0.5)
    assert (Sides(0, 0, 4, 3).balanced, Sides(0, 0, 4, 3).worse) == (None, 0.75)
    assert (Sides(0, 0, 0, 0).balanced, Sides(0, 0, 0, 0).worse) == (None, None)


def test_a_surrogate_that_is_no_guide_is_told_of() -> None:
    good, poor, one_sided = Sides(10, 10, 10, 10), Sides(10, 5, 90, 90), Sides(0, 0, 20, 20)

    def warnings(plain: Sides, descent: Sides) -> list[str]:
        found = made_by_hand(3, surrogate=Agreement(5, plain, descent), unlimited=(), few_steps=(), sets=())
        return list(adaptive_figures(found, l2_limits=(1.0,), linf_limits=(0.1,))["warnings"])

    assert warnings(good, good) == []
    (told,) = warnings(good, poor)
    assert "one selective descent against the final surrogate" in told
    assert "50%" in told
    assert "Carlini" in warnings(poor, good)[0]
    assert "flagged 0 and passed 20" in warnings(good, one_sided)[0]


def test_one_image_is_matched_by_the_parts_that_the_score_depends_on(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import service.adaptive.running as driver

    matched = []
    real = driver.find_features
    monkeypatch.setattr(
        driver, "find_features", lambda *given, **options: matched.append(given[1].shape) or real(*given, **options)
    )  # fmt: skip
    columns = transport.detector.num_columns_
    for row in range(COUNT):
        found = attack_adaptively(
            transport, images[row : row + 1], labels[row : row + 1], ["feature_matching"], budgets=BUDGETS,
            progress=False,
        )  # fmt: skip
        assert found.sets[0].attempted.shape == (1,)
        if matched:
            break
    assert matched == [(1, columns)]


def test_a_search_keeps_a_lead_over_the_threshold(energy: Pipeline, images: torch.Tensor) -> None:
    system = System(energy)
    margins = system.margins(system.features(images))
    rows = torch.arange(len(images))
    everyone = lambda predicted, which: torch.ones_like(which, dtype=torch.bool)  # noqa: E731
    for lead in (0.0, float(np.quantile(-margins[margins < 0], 0.5))):
        passed = system.decide(everyone, lead=lead)(images, rows).numpy()
        assert np.array_equal(passed, (margins < 0) & (margins <= -lead))


def test_what_does_not_pass_when_judged_again_is_lost(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that claims natural images is believed in none of them."""
    import service.adaptive.running as driver

    def claims_everything(decide: Any, images: torch.Tensor, *more: Any, **options: Any) -> AdaptiveResult:
        counts = torch.ones(len(images), dtype=torch.int64)
        return AdaptiveResult(images, torch.ones(len(images), dtype=torch.bool), counts, counts)

    monkeypatch.setattr(driver, "black_box", claims_everything)
    found = attack_adaptively(energy, images, labels, ["whole_system"], budgets=BUDGETS, progress=False)
    one = found.sets[0]
    assert not one.evaded.any()
    assert np.array_equal(one.not_confirmed, found.right)
    figures = run_adaptive(energy, images, labels, ["whole_system"], budgets=BUDGETS, progress=False)
    assert figures["attacks"]["whole_system"]["not_confirmed"] == found.right.sum() > 0
    assert any("judged again" in text for text in figures["warnings"])


def test_queries_are_limited_in_all(energy: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    budgets = dataclasses.replace(BUDGETS, queries=100, iterations=50)
    found = attack_adaptively(energy, images, labels, ["whole_system"], budgets=budgets, progress=False)
    assert found.sets[0].queries.max() <= 100
    figures = run_adaptive(energy, images, labels, ["whole_system"], budgets=budgets, progress=False)
    assert figures["budgets"]["queries"] == 100


@pytest.mark.parametrize(
    "detector",
    [
        Energy(),
        MaxSoftmax(),
        Mahalanobis(classifier="none"),
        Mahalanobis(classifier="none", combine="last", layers="stages"),
        RelativeMahalanobis(classifier="none"),
    ],
    ids=repr,
)
def test_exact_margins_are_the_detector_s_own(detector: Detector, images: torch.Tensor) -> None:
    system = System(pipeline_of(detector))
    assert system.exact_margins is not None
    batch = images.clone().requires_grad_(True)
    margins = system.exact_margins(system.forward(batch)[1])
    wanted = system.margins(system.features(images))
    if isinstance(detector, MaxSoftmax):  # log-odds rise with the score, and are 0 where the margin is
        order = np.argsort(wanted)
        assert (np.diff(margins.detach().numpy()[order]) >= -1e-5).all()
        assert ((margins.detach().numpy() >= 0) == (wanted >= 0)).all()
    else:
        assert np.allclose(margins.detach().numpy(), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    (gradient,) = torch.autograd.grad(margins.sum(), batch)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("detector", "used"),
    [
        (Energy(), ("logits",)),
        (Transport(num_trees=5, minimum_per_class=5), ("logits", "statistics")),
        (Mahalanobis(num_trees=5, minimum_per_class=1000), ("distances",)),
    ],
    ids=repr,
)
def test_parts_are_what_the_detector_judges_by(detector: Detector, used: tuple[str, ...], images: torch.Tensor) -> None:
    system = System(pipeline_of(detector))
    features = system.features(images)
    parts = system.parts(features)
    assert system.used_parts(features) == used
    assert np.array_equal(system.margins_of(parts), system.margins(features))
    _, tensors = system.forward(images)
    assert set(tensors) == set(parts) == set(system.differentiable)
    for name, values in tensors.items():
        assert np.allclose(values.detach().numpy(), parts[name], rtol=1e-3, atol=1e-4 * np.abs(parts[name]).max())


def test_classifiers_on_distances_are_attacked_too(images: torch.Tensor, labels: torch.Tensor) -> None:
    pipeline = pipeline_of(Mahalanobis(num_trees=20, minimum_per_class=5))
    assert exact_margins(pipeline.detector, None, 0.5) is None
    found = attack_adaptively(
        pipeline, images, labels, ["feature_matching", "selective"], budgets=BUDGETS, decision="vote", progress=False,
        seed=SEED,
    )  # fmt: skip
    matching = found.sets[0]
    assert isinstance(found.surrogate, Agreement)
    assert matching.name == "feature_matching" or matching.epsilon is not None
    for one in found.sets:
        verdicts = pipeline.score(torch.from_numpy(one.images[one.evaded]))
        assert all(verdict.score < 0.5 for verdict in verdicts)


# --- what is refused


def test_features_without_a_gradient_are_not_matched(images: torch.Tensor, labels: torch.Tensor) -> None:
    pipeline = pipeline_of(Mahalanobis(classifier="none", magnitude=0.001))
    names = ["feature_matching", "selective"]
    figures = run_adaptive(pipeline, images[:6], labels[:6], names, budgets=BUDGETS, progress=False)
    assert set(figures["attacks"]) == {"selective"}
    assert figures["surrogate"]["held_out_originals"] == 1
    assert any(text.startswith("feature_matching was left out: mahalanobis") for text in figures["warnings"])


def test_decisions_that_a_detector_cannot_make(transport: Pipeline, energy: Pipeline) -> None:
    with pytest.raises(InputError, match="calibration of the vote 'all_class'"):
        System(transport, ensemble=False)
    with pytest.raises(InputError, match="decision='calibrated'"):
        System(energy, decision="vote")
    with pytest.raises(InputError, match="'calibrated' or 'vote'"):
        System(energy, decision="majority")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch size"):
        System(energy, batch_size=1)
    own = Calibration(np.linspace(0, 1, 99), 0.1)
    assert System(transport, ensemble=False, calibration=own).threshold == own.threshold
    assert System(energy, ensemble=False).threshold == energy.calibration.threshold


def test_images_labels_and_names_that_do_not_fit(energy: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="got guessing"):
        run_adaptive(energy, images, labels, ["guessing"], progress=False)
    with pytest.raises(InputError, match="labels"):
        run_adaptive(energy, images, labels[:3], progress=False)
    with pytest.raises(InputError, match="pixels in"):
        run_adaptive(energy, images * 255, labels, progress=False)
    with pytest.raises(InputError, match="shard_size"):
        run_adaptive(energy, images, labels, shard_size=0, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"iterations": 0},
        {"surrogate_rounds": -1},
        {"epsilons": ()},
        {"epsilons": (0.1, 0.05)},
        {"epsilons": (2.0,)},
        {"matching_weights": (-1.0,)},
        {"around": "start"},
        {"queries": 99},
        {"queries": 1e4},
        {"descent_steps": 3},
        {"evaluations": 1},
    ],
    ids=str,
)
def test_budgets_refuse(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Budgets(**options)


def test_budgets_are_the_thesis_s() -> None:
    assert (Budgets().iterations, Budgets().evaluations) == (50, 10_000)


# --- the command line


def settings_said(*words: str) -> EvaluationSettings:
    return settings_of(_parser().parse_args(["evaluate", "--network", "tiny", "--out", "report", *words]))


def test_smaller_budgets_are_said_on_the_command_line() -> None:
    assert settings_said("--adaptive", "black_box").adaptive_budgets is None
    said = settings_said("--adaptive", "black_box", "--adaptive-queries", "2000", "--adaptive-steps", "40")
    assert said.adaptive_budgets is not None
    assert dataclasses.asdict(said.adaptive_budgets) == dataclasses.asdict(Budgets(queries=2000, descent_steps=40))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adaptive", "black_box", "--adaptive-queries", "20"], "queries as an integer of at least 100"),
        (["--adaptive", "black_box", "--adaptive-steps", "0"], "descent_steps as an integer of at least 4"),
        (["--adaptive-queries", "2000"], "name adaptive attacks, such as --adaptive black_box"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_budgets_that_cannot_be_are_refused_on_the_command_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_said(*words)
