import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.detection.candidates import (
    ClassProjections,
    Curvature,
    PooledMoments,
    SpectralShares,
    class_projections,
    exit_agreement,
    high_frequency_share,
    moments,
    successive_cosines,
)
from benchmarks.detection.folds import Area, area_of, chosen, folds_of, interval, mean_of, resamples_of, summary
from benchmarks.detection.perturbations import PERTURBATIONS, Perturbation, perturbed
from benchmarks.detection.search import ATTACKS, FITS, choices_of, groups_of, joining_name, present_joining
from benchmarks.detection.search_columns import CANDIDATES, CHANGED, SYNTHETIC, Columns, search_rows
from benchmarks.detection.search_fits import Fits, TabledFusion
from benchmarks.tables.search import search_cells, search_choices, search_sets, search_summary
from detector.detectors.fusion import Fusion
from detector.features.path_groups import PathGaussians, path_groups, view_groups
from models.features import Features, extract_features
from models.images.views import View
from models.residuals import discover
from service.cache import EvaluationCache
from service.evaluation.records import NATURAL

Fit = tuple[str, ...]


# --- candidates


def test_residues_along_a_line_have_cosine_one_and_others_are_left_out(rng: np.random.Generator) -> None:
    first = torch.from_numpy(rng.normal(size=(5, 2, 4, 4)))
    other = torch.from_numpy(rng.normal(size=(5, 4, 2, 2)))
    found = successive_cosines([first, 3 * first, -first, other])
    assert found.shape == (5, 2)
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0]).expand(5, 2))


def test_a_checkerboard_is_all_high_frequency_and_a_constant_none() -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = ((rows + columns) % 2).float() * 2 - 1
    slow = torch.cos(2 * math.pi * rows / 8)
    maps = torch.stack([board, torch.ones(8, 8), slow + board])[:, None]
    share = high_frequency_share(maps)
    torch.testing.assert_close(share[:2], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(share[2], torch.tensor(64 / (64 + 32.0)))


def test_moments_are_numpys(rng: np.random.Generator) -> None:
    values = rng.normal(size=(3, 5, 4, 4)) + 2
    given = torch.from_numpy(values)
    np.testing.assert_allclose(moments(given, "deviations").numpy(), values.std(axis=(2, 3)), rtol=1e-3)
    np.testing.assert_allclose(moments(given, "squares").numpy(), np.square(values).mean(axis=(2, 3)), rtol=1e-5)


def test_projections_are_onto_the_rows_of_the_two_likeliest_classes(rng: np.random.Generator) -> None:
    rows = torch.from_numpy(rng.normal(size=(4, 6))).float()
    vectors = [torch.from_numpy(rng.normal(size=(2, 6))).float() for _ in range(3)]
    logits = torch.tensor([[0.0, 3.0, 1.0, -1.0], [5.0, 0.0, 1.0, 4.0]])
    found = class_projections(vectors, logits, rows)
    assert found.shape == (2, 9)
    torch.testing.assert_close(found[1, 2], vectors[2][1] @ rows[0])
    torch.testing.assert_close(found[1, 5], vectors[2][1] @ rows[3])
    torch.testing.assert_close(found[:, 6:], found[:, :3] - found[:, 3:6])


def test_exits_agree_where_the_nearest_class_is_the_answer() -> None:
    own, nearest = np.array([[1.0, 5.0, 1.0, 1.0]]), np.ones((1, 4))
    found = exit_agreement(np.concatenate([own, own + 1, nearest, nearest], axis=1))
    assert found.tolist() == [[1, 0, 1, 1, 0.75, 0.5]]


def test_candidates_are_measured_of_a_network(tiny_network: nn.Module, rng: np.random.Generator) -> None:
    images = rng.random((4, 3, 16, 16), dtype=np.float32)
    feature_requests = [
        Curvature(), SpectralShares(), ClassProjections(), PooledMoments("deviations"), PooledMoments("squares")
    ]  # fmt: skip
    measured = extract_features(tiny_network, images, feature_requests=feature_requests).requested
    shapes = {name: values.shape for name, values in measured.items()}
    blocks = len(discover(tiny_network, (3, 16, 16)).branches)
    assert shapes["spectral_shares"] == (4, blocks)
    assert shapes["curvature"] == (4, 0)  # one block per stage: no two have one shape
    assert shapes["class_projections"] == (4, 3)
    assert shapes["pooled_moments:squares"] == shapes["pooled_moments:deviations"] == (4, blocks, 16)
    shares = measured["spectral_shares"]
    assert ((shares >= 0) & (shares <= 1)).all()


# --- perturbations


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: f"{each.kind}-{each.size:.3g}")
def test_perturbed_images_are_images_that_changed(perturbation: Perturbation, rng: np.random.Generator) -> None:
    images = rng.random((2, 3, 8, 8), dtype=np.float32)
    found = perturbation(images, rng)
    assert found.dtype == np.float32
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.abs(found - images).max(axis=(1, 2, 3)) > 0).all()
    if perturbation.kind == "uniform":
        assert np.abs(found - images).max() <= perturbation.size + 1e-6


def test_the_seed_draws_the_perturbations(rng: np.random.Generator, seed: int) -> None:
    images = rng.random((30, 3, 8, 8), dtype=np.float32)
    first = perturbed(images, seed)
    assert np.array_equal(first, perturbed(images, seed))
    assert not np.array_equal(first, perturbed(images, seed + 1))


# --- folds and areas


def test_the_search_never_sees_an_image_of_a_study() -> None:
    studied = np.sort(np.random.default_rng(0).permutation(10_000)[:5000])  # as `ImageDataset.limited`
    rows = search_rows(10_000, 5000, 8000, 0)
    assert len(np.unique(rows)) == 3000
    assert not np.isin(rows, studied).any()


def test_folds_are_even_and_resamples_stay_within_them(seed: int) -> None:
    fold = folds_of(20, 3, seed)
    assert sorted(np.bincount(fold).tolist()) == [6, 7, 7]
    counts = resamples_of(fold, 50, seed)
    for each in range(3):
        assert (counts[:, fold == each].sum(axis=1) == (fold == each).sum()).all()


def test_an_area_is_scikit_learns_mean_over_folds_also_with_ties(rng: np.random.Generator, seed: int) -> None:
    fold = folds_of(60, 3, seed)
    natural = rng.integers(5, size=60).astype(np.float64)
    originals = np.arange(48)
    adversarial = rng.integers(7, size=48).astype(np.float64)
    counts = resamples_of(fold, 20, seed)
    found = area_of(natural, adversarial, originals, fold, counts)

    def area(weights: np.ndarray) -> float:
        areas = []
        for each in range(3):
            mine, theirs = fold == each, fold[originals] == each
            scores = np.concatenate([natural[mine], adversarial[theirs]])
            kinds = np.repeat([0, 1], [mine.sum(), theirs.sum()])
            areas.append(
                roc_auc_score(kinds, scores, sample_weight=np.concatenate([weights[mine], weights[originals[theirs]]]))
            )
        return float(np.mean(areas))

    assert found.value == pytest.approx(area(np.ones(60)))
    assert found.replicates[7] == pytest.approx(area(counts[7]))


def test_scores_of_one_fold_are_never_compared_with_those_of_another() -> None:
    fold = np.repeat([0, 1], 10)
    natural = np.where(fold == 0, 0.0, 100.0)
    area = area_of(natural, natural + 1, np.arange(20), fold, resamples_of(fold, 10, 0))
    assert area.value == 1


def test_a_resample_without_an_attacked_image_counts_for_nothing() -> None:
    fold = np.zeros(4, dtype=np.int64)
    counts = np.array([[4, 0, 0, 0], [1, 1, 1, 1]])
    area = area_of(np.zeros(4), np.ones(1), np.array([3]), fold, counts)
    assert np.isnan(area.replicates[0])
    assert interval(area) == {"auroc": 1, "low": 1, "high": 1}


def _cells(*values: float) -> dict[tuple[Fit, str], Area]:
    keys: list[tuple[Fit, str]] = [(("a",), "a"), (("a",), "b"), (("a",), "c")]
    return {key: Area(value, np.full(5, value)) for key, value in zip(keys, values, strict=True)}


def test_the_criterion_weighs_seen_and_unseen_attacks_alike() -> None:
    found = summary(_cells(0.9, 0.5, 0.7))
    assert {name: area.value for name, area in found.items()} == pytest.approx(
        {"seen": 0.9, "unseen": 0.6, "mean": 0.75}
    )
    nothing: dict[tuple[Fit, str], Area] = {((), "a"): Area(0.8, np.full(5, 0.8))}
    assert set(summary(nothing)) == {"unseen", "mean"}


def test_the_largest_criterion_is_chosen_and_told_beside_the_present_one() -> None:
    found = chosen({"now": _cells(0.9, 0.5, 0.7), "other": _cells(0.8, 0.9, 0.9)}, "now")
    assert (found["chosen"], found["is_present"], found["among"]) == ("other", False, 2)
    assert found["gain"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    same = chosen({"other": _cells(0.9, 0.5, 0.7), "now": _cells(0.9, 0.5, 0.7)}, "now")
    assert same["is_present"]


def test_a_mean_of_areas_is_paired() -> None:
    first, second = Area(0.5, np.array([0.4, 0.6])), Area(0.7, np.array([0.8, 0.6]))
    assert mean_of([first, second]).replicates.tolist() == pytest.approx([0.6, 0.6])


# --- fits on a table


def _table(rng: np.random.Generator, count: int = 90) -> dict[str, Columns]:
    """Columns of made-up images in four classes; the attacked ones are further out."""

    def columns(rows: np.ndarray, shift: float, name: str) -> Columns:
        logits = rng.normal(size=(len(rows), 4)).astype(np.float32)
        widths = {name: 6 if name == "outputs" else 2 for name in (*Fusion.group_names, *CANDIDATES)}
        measured = {
            group: (rng.normal(size=(len(rows), width)) + shift).astype(np.float32) for group, width in widths.items()
        }
        statistics = rng.normal(size=(len(rows), 2)).astype(np.float32)
        key = {"name": name, "drawn": float(logits[0, 0])}
        return Columns(rows, np.ones(len(rows), bool), Features(logits, statistics, measured), key)

    every = np.arange(count)
    return {
        NATURAL: columns(every, 0.0, NATURAL),
        "far": columns(every, 3.0, "far"),
        "few": columns(every[:40], 1.0, "few"),
    }


def test_every_image_is_judged_by_what_has_not_seen_its_original(rng: np.random.Generator, seed: int) -> None:
    table = _table(rng)
    fold = folds_of(90, 3, seed)
    fits = Fits(table, ["far", "few"], fold, seed, EvaluationCache(None))
    scores = fits.boosting(("statistics", "energy"), ("far",))
    assert {name: len(values) for name, values in scores.items()} == {NATURAL: 90, "far": 90, "few": 40}
    assert all(np.isfinite(values).all() for values in scores.values())
    assert roc_auc_score(np.repeat([0, 1], 90), np.concatenate([scores[NATURAL], scores["far"]])) > 0.8
    # Other features of the images of one fold change what the others are told by, but not by their own models' folds.
    changed = dict(table)
    features = table["far"].features
    moved = {name: np.where((fold == 0)[:, None], -values, values) for name, values in features.requested.items()}
    changed["far"] = Columns(
        table["far"].originals, table["far"].success, features._replace(requested=moved), {"name": "changed"}
    )
    again = Fits(changed, ["far", "few"], fold, seed, EvaluationCache(None)).boosting(
        ("statistics", "energy"), ("far",)
    )
    assert np.array_equal(again[NATURAL][fold == 0], scores[NATURAL][fold == 0])
    assert not np.array_equal(again[NATURAL][fold != 0], scores[NATURAL][fold != 0])


def test_surprises_of_the_table_are_kept_and_join_to_a_score(rng: np.random.Generator, seed: int) -> None:
    cache, fold = EvaluationCache(None), folds_of(90, 3, seed)
    table = _table(rng)
    said = Fits(table, ["far"], fold, seed, cache).signs("logistic_regression", ("far",))
    names = {"all_class", "predicted_class", "surprise:learnt", *(f"surprise:{sign.name}" for sign in Fusion.signs)}
    assert set(said["far"]) == names
    again = Fits(table, ["far"], fold, seed, cache).signs("logistic_regression", ("far",))
    assert all(np.array_equal(again[name][part], said[name][part]) for name in said for part in names)


def test_fusion_on_the_table_is_fusion(tiny_network: nn.Module, rng: np.random.Generator, seed: int) -> None:
    fusion = Fusion(view="flip", classifier="none", seed=seed)
    images = rng.random((150, 3, 16, 16), dtype=np.float32)
    features = extract_features(tiny_network, images, feature_requests=fusion.feature_requests())
    reference, natural = features.take(np.arange(60)), features.take(np.arange(60, 150))
    scores = fusion.prepare(reference).fit(natural).score(natural)
    gaussians = PathGaussians.fit(reference, reference.predicted, Fusion.gaussians_of)
    groups = path_groups(natural, gaussians)
    groups |= view_groups(natural, View(flip=True), gaussians, groups["embeddings"])
    tabled = natural._replace(requested={name: values.astype(np.float32) for name, values in groups.items()})
    found = TabledFusion(classifier="none", seed=seed).fit(tabled).score(tabled)
    np.testing.assert_array_equal(found, scores)


# --- what is chosen, and how it is told


def test_what_the_detectors_do_is_among_what_is_compared() -> None:
    assert joining_name(*present_joining()) in {
        joining_name(p, w) for p in (1.0, 2.0, 3.0) for w in (1.0, 1.5, 2.0, 3.0)
    }
    groups = groups_of()
    assert groups["fusion"] == tuple(Fusion.group_names)
    assert {name for fit in FITS for name in fit} <= {attack for attack, _ in ATTACKS}


def test_tables_of_a_made_up_result() -> None:
    sections = {
        "ablation": {name: _cells(0.9, 0.5, 0.7) for name in groups_of()},
        "learners": {"gradient_boosting, joined with the signs": _cells(0.9, 0.5, 0.7), "x": _cells(0.9, 0.6, 0.7)},
        "no_attack_seen": {"signs": _cells(0.9, 0.5, 0.7)},
        "joining": {joining_name(*present_joining()): _cells(0.9, 0.5, 0.7)},
        "signs": {"all": _cells(0.9, 0.5, 0.7)},
    }
    choices = json.loads(json.dumps(choices_of(sections)))
    told = interval(Area(0.9, np.array([0.8, 1.0])))
    row = {
        "name": "x", "summary": {"unseen": told, "mean": told},
        "lowest": {"auroc": 0.9, "fitted_on": [], "tested_on": "carlini_wagner:confidence=5"},
        "cells": [{"fitted_on": ["fgm"], "areas": {"fgm": told, "carlini_wagner:confidence=5": told}}],
    }  # fmt: skip
    result = {
        "choices": choices, "ablation": [row],
        "sets": [
            {"name": NATURAL, "images": 3000, "answer_changed": 0},
            {"name": SYNTHETIC, "images": 9, "answer_changed": 2},
            {"name": CHANGED, "images": 2, "answer_changed": 2}, {"name": "fgm", "images": 3000, "successful": 2500},
            {"name": "carlini_wagner:confidence=5", "images": 256, "successful": 240},
        ],
    }  # fmt: skip
    assert "| learner | 2 | x |" in "\n".join(search_choices(result))
    assert search_summary(result, "ablation")[2].endswith("0.900 (CW κ 5, fitted on natural images only) |")
    assert search_cells(result, "ablation")[2] == "| x | FGM | **0.900** | 0.900 |"
    assert len(search_cells(result, "ablation", ["deepfool"])) == 2
    assert "| perturbed | 9 | – | 2 |" in search_sets(result)
    for lines in (search_choices(result), search_summary(result, "ablation"), search_cells(result, "ablation")):
        assert len({line.count("|") for line in lines}) == 1
