"""Adaptive attacks on small fitted pipelines."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks.adaptive.result import AdaptiveResult
from attacks.decision_based.search import Decide
from detector.calibration import Calibration
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.pipeline import Pipeline
from models.errors import InputError
from service.adaptive.agreement import Agreement
from service.adaptive.context import AttackContext
from service.adaptive.exact import exact_margins
from service.adaptive.records import AdaptiveAttacks
from service.adaptive.settings import ADAPTIVE_ATTACKS, AdaptiveSettings
from service.adaptive.summary import adaptive_figures
from service.adaptive.system import System
from tests.attacks.digits import digits
from tests.conftest import SEED
from tests.service.adaptive.small_systems import (
    BUDGETS,
    COUNT,
    OnlyClass,
    all_digits,
    attacked,
    everything,
    figures_of,
    pipeline_of,
)

pytestmark = pytest.mark.slow

FEW = dataclasses.replace(BUDGETS, descent_steps=4, matching_steps=4)  # for tests whose result they do not change


def check_claims(found: AdaptiveAttacks, pipeline: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Evaded images pass the pipeline, are valid, and are inside the budget."""
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
    return attacked(transport, images, labels, seed=SEED, shard_size=12)


def test_evaded_images_are_accepted_misclassified_valid_and_inside_the_budget(
    on_transport: AdaptiveAttacks, transport: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    check_claims(on_transport, transport, images, labels)
    assert {one.name for one in on_transport.sets} == set(ADAPTIVE_ATTACKS) - {"network"}
    assert on_transport.fooled is not None
    assert on_transport.detected is not None
    for one in on_transport.sets:
        by_fooled = one.name in ("black_box", "feature_matching")
        assert np.array_equal(one.attempted, on_transport.detected if by_fooled else on_transport.right)
    by_name = {one.name: one for one in on_transport.sets if one.epsilon is None}
    assert by_name["whole_system"].evaded.mean() > 0.5
    assert sum(one.evaded.sum() for one in on_transport.unlimited) > on_transport.right.sum()


def test_the_network_alone_is_attacked_at_each_budget_and_half_of_it(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    budgets = dataclasses.replace(BUDGETS, epsilons=(0.5,))
    figures = figures_of(energy, images[:3], labels[:3], ["network"], budgets=budgets)
    rows = figures["attacks"]["network"]["budgets"]
    assert [row["epsilon"] for row in rows] == [0.25, 0.5]
    assert all(row["evaded"] <= row["network_fooled"] * row["attempted"] for row in rows)
    (robust,) = figures["robustness"]
    assert robust["network"] == pytest.approx(figures["natural"]["accuracy"] * (1 - rows[1]["network_fooled"]))


def test_black_box_reports_which_images_have_a_random_start(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: dict[int, bool] = {}

    def has_random_start(context: AttackContext, decide: Decide, rows: np.ndarray) -> torch.Tensor:
        """Every second image has one; `decide` is compared with the verdicts of natural images."""
        clear = context.system.margins(context.natural)[context.accepted] < -1e-3  # `decide` requires a lead
        for position, row in enumerate(rows):
            reached = context.fooled_features.predicted[row] == context.natural.predicted[context.accepted]
            answers = decide(context.images[context.accepted], torch.full((len(context.accepted),), position))
            assert np.array_equal(answers.numpy()[clear], reached[clear])
            reported[int(row)] = len(reported) % 2 == 0
        return torch.tensor([reported[int(row)] for row in rows])

    monkeypatch.setattr(AttackContext, "has_random_start", has_random_start)
    found = attacked(transport, images, labels, ["black_box"], seed=SEED)
    (black_box,) = found.sets
    assert reported.keys() == set(np.flatnonzero(black_box.attempted).tolist())
    assert len(reported) > 1
    assert all(black_box.extra["random_start"][row] == wanted for row, wanted in reported.items())


def test_random_starts_differ_between_images_and_not_between_batches(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    context = AttackContext(
        System(energy), images, labels, AdaptiveSettings(budgets=BUDGETS, seed=SEED), progress=False
    )
    drawn: list[torch.Tensor] = []

    def decide(points: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert set(positions.tolist()) == {len(drawn)}
        drawn.append(points)
        return points[:, 0, 0, 0] < 0.01

    found = context.has_random_start(decide, np.arange(COUNT))
    points = torch.stack(drawn)
    assert points.shape == (COUNT, 100, *images.shape[1:])
    assert points.min() >= 0
    assert points.max() <= 1
    assert len(torch.unique(points.flatten(0, 1)[:, 0, 0], dim=0)) == COUNT * 100
    assert torch.equal(found, (points[:, :, 0, 0, 0] < 0.01).any(1))
    drawn.clear()
    assert torch.equal(context.has_random_start(decide, np.array([7, 2])), found[[7, 2]])
    assert torch.equal(torch.stack(drawn), points[[7, 2]])
    drawn.clear()
    settings = AdaptiveSettings(budgets=BUDGETS, seed=SEED + 1)
    AttackContext(System(energy), images, labels, settings, progress=False).has_random_start(decide, np.array([7]))
    assert not torch.equal(drawn[0], points[7])


def test_state_of_the_network_is_restored(transport: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    before = [(p.requires_grad, p.grad, p.clone()) for p in transport.network.parameters()]
    figures_of(transport, images[:4], labels[:4], ["selective"])
    for parameter, (wanted, gradient, values) in zip(transport.network.parameters(), before, strict=True):
        assert (parameter.requires_grad, parameter.grad) == (wanted, gradient)
        assert torch.equal(parameter, values)
    assert not transport.network.training


def test_a_detector_that_is_easily_evaded_is_evaded(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Confidently misclassified images pass the energy detector, so that every attack finds some."""
    budgets = dataclasses.replace(
        BUDGETS,
        matching_steps=60,
        descent_steps=40,
        descent_restarts=2,
        epsilons=(64 / 255, 160 / 255),
    )
    found = attacked(energy, images, labels, budgets=budgets, seed=SEED)
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
    found = attacked(pipeline, images[rows], labels[rows], seed=SEED, budgets=FEW)
    assert found.detected is not None
    assert found.detected.sum() == found.fooled.sum() > 0
    assert not any(one.evaded.any() for one in everything(found))
    figures = figures_of(pipeline, images[rows], labels[rows], ["orthogonal"], budgets=FEW)
    accepted = 1.0 if decision == "misclassified flagged" else 0.0
    assert [row["robust"] for row in figures["robustness"]] == [accepted, accepted]
    assert any("without a budget" in warning for warning in figures["warnings"])


def test_interrupted_run_resumes(
    transport: Pipeline,
    images: torch.Tensor,
    labels: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from service.adaptive import descents

    real, calls, broken = descents.descend, [], [True]

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(options["kind"])
        if broken[0] and len(calls) == 6:
            raise KeyboardInterrupt
        return real(*args, **options)

    def run(cache: Path | None) -> dict[str, Any]:
        names = ["selective", "feature_matching"]
        return figures_of(transport, images, labels, names, cache=cache, shard_size=10, seed=SEED, budgets=FEW)

    whole = run(None)
    monkeypatch.setattr(descents, "descend", counted)
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


def test_cache_key_depends_on_detector_and_decision(
    transport: Pipeline, energy: Pipeline, images: torch.Tensor, labels: torch.Tensor, tmp_path: Path
) -> None:
    def folders(pipeline: Pipeline, **options: Any) -> set[str]:
        figures_of(pipeline, images[:4], labels[:4], ["whole_system"], cache=tmp_path, budgets=FEW, **options)
        return {path.name for path in tmp_path.iterdir()}

    kept = [len(folders(transport)), len(folders(transport)), len(folders(transport, decision="vote"))]
    assert kept == [1, 1, 2]
    assert len(folders(transport, decision="vote", ensemble=False)) == 3
    assert len(folders(energy)) == 4
    assert len(folders(energy, seed=7)) == 5


def test_cache_key_depends_on_code_and_fooled_images(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.adaptive import caching, context

    def folders(**budgets: Any) -> dict[str, int]:
        names, few = ["black_box", "selective"], dataclasses.replace(FEW, **budgets)
        figures_of(transport, images[:6], labels[:6], names, budgets=few, cache=tmp_path)
        kept = [path.name for path in tmp_path.iterdir()]
        wanted = ("black_box", "selective", "surrogate")
        return {name: sum(each.startswith(f"adaptive-{name}-") for each in kept) for name in wanted}

    selective = 2 + 1 + 1  # budgets, none, few steps
    assert folders() == {"black_box": 1, "selective": selective, "surrogate": 1}
    assert folders() == {"black_box": 1, "selective": selective, "surrogate": 1}
    assert folders(queries=100) == {"black_box": 2, "selective": selective, "surrogate": 1}
    assert folders(descent_steps=5) == {"black_box": 2, "selective": 2 * selective, "surrogate": 2}

    real = context.generate

    def others(*given: Any, **options: Any) -> Any:
        made = real(*given, **options)
        return dataclasses.replace(made, images=(made.images * np.float32(0.99)))

    monkeypatch.setattr(context, "generate", others)
    assert folders() == {"black_box": 3, "selective": 3 * selective, "surrogate": 3}
    monkeypatch.setattr(caching, "code_digest", lambda *modules: "edited")
    assert folders() == {"black_box": 4, "selective": 4 * selective, "surrogate": 4}
    monkeypatch.setattr(caching, "code_closure", lambda module: "edited")
    assert folders() == {"black_box": 5, "selective": 5 * selective, "surrogate": 5}


def test_one_vote_alone_and_the_paper_s_decision(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor
) -> None:
    found = attacked(
        transport, images, labels, ["orthogonal", "whole_system"], decision="vote", ensemble=False, seed=SEED
    )
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


def test_one_image_is_matched_by_the_parts_that_the_score_depends_on(
    transport: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.adaptive import feature_matching

    matched = []
    real = feature_matching.find_features

    def recorded(*given: Any, **options: Any) -> AdaptiveResult:
        matched.append(given[1].shape)
        return real(*given, **options)

    monkeypatch.setattr(feature_matching, "find_features", recorded)
    columns = transport.detector.num_columns_
    for row in range(COUNT):
        found = attacked(transport, images[row : row + 1], labels[row : row + 1], ["feature_matching"])
        assert found.sets[0].attempted.shape == (1,)
        if matched:
            break
    assert matched == [(1, columns)]


def test_claims_that_the_pipeline_does_not_confirm_do_not_count(
    energy: Pipeline, images: torch.Tensor, labels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that claims natural images as evaded has no confirmed image."""
    from service.adaptive import decision_attacks

    def claims_everything(decide: Any, images: torch.Tensor, *more: Any, **options: Any) -> AdaptiveResult:
        counts = torch.ones(len(images), dtype=torch.int64)
        return AdaptiveResult(images, torch.ones(len(images), dtype=torch.bool), counts, counts)

    monkeypatch.setattr(decision_attacks, "black_box", claims_everything)
    found = attacked(energy, images, labels, ["whole_system"])
    one = found.sets[0]
    assert not one.evaded.any()
    assert np.array_equal(one.not_confirmed, found.right)
    figures = figures_of(energy, images, labels, ["whole_system"])
    assert figures["attacks"]["whole_system"]["not_confirmed"] == found.right.sum() > 0
    assert any("scored again" in text for text in figures["warnings"])


def test_queries_are_limited_in_all(energy: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    budgets = dataclasses.replace(BUDGETS, queries=100, iterations=50)
    found = attacked(energy, images, labels, ["whole_system"], budgets=budgets)
    assert found.sets[0].queries.max() <= 100
    figures = figures_of(energy, images, labels, ["whole_system"], budgets=budgets)
    assert figures["budgets"]["queries"] == 100


def test_classifiers_on_distances_are_attacked_too(images: torch.Tensor, labels: torch.Tensor) -> None:
    pipeline = pipeline_of(Mahalanobis(num_trees=20, minimum_per_class=5))
    assert exact_margins(pipeline.detector, None, 0.5) is None
    found = attacked(
        pipeline, images, labels, ["feature_matching", "selective"], decision="vote", seed=SEED, budgets=FEW
    )
    matching = found.sets[0]
    assert isinstance(found.surrogate, Agreement)
    assert matching.name == "feature_matching" or matching.epsilon is not None
    for one in found.sets:
        verdicts = pipeline.score(torch.from_numpy(one.images[one.evaded]))
        assert all(verdict.score < 0.5 for verdict in verdicts)


def test_features_without_a_gradient_are_not_matched(images: torch.Tensor, labels: torch.Tensor) -> None:
    pipeline = pipeline_of(Mahalanobis(classifier="none", magnitude=0.001))
    names = ["feature_matching", "selective"]
    figures = figures_of(pipeline, images[:6], labels[:6], names, budgets=FEW)
    assert set(figures["attacks"]) == {"selective"}
    assert figures["surrogate"]["held_out_originals"] == 1
    assert any(text.startswith("feature_matching was left out: mahalanobis") for text in figures["warnings"])


def test_images_labels_and_names_that_do_not_fit(energy: Pipeline, images: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="got guessing"):
        figures_of(energy, images, labels, ["guessing"])
    with pytest.raises(InputError, match="labels"):
        figures_of(energy, images, labels[:3])
    with pytest.raises(InputError, match="pixels in"):
        figures_of(energy, images * 255, labels)
    with pytest.raises(InputError, match="shard_size"):
        figures_of(energy, images, labels, shard_size=0)
