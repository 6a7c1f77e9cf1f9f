"""Certificates against a linear classifier, whose distance to the boundary is known, and their order."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from models.errors import InputError
from models.smoothing import REJECTED, Smoothing, certificate, count_votes


def votes_of(*counts: int) -> NDArray[np.int64]:
    return np.array(counts, np.int64)


def test_the_radius_of_a_linear_classifier_is_its_distance_to_the_boundary() -> None:
    # f(x) = [w·x > b] with ‖w‖ = 1 at distance 0.3: p = Φ(0.3 / 0.25), so σ Φ⁻¹(p) = 0.3.
    count = 10**9
    hits = round(count * norm.cdf(0.3 / 0.25))
    found = certificate(votes_of(count - hits, hits, 0), Smoothing(0.25, count))
    assert found.answer == 1
    assert found.radius == pytest.approx(0.3, abs=1e-3)
    assert found.radius < 0.3
    # Without rejections and with two classes, an answer that is not another one is the same one.
    assert found.exclusive[1] == pytest.approx(found.radius)
    assert found.exclusive[0] == 0


def test_rejection_by_the_threshold_moves_both_radii() -> None:
    # τ = Φ(1): the class is answered up to 0.3 − σ from the boundary, the other one only from σ beyond it.
    count, sigma = 10**9, 0.1
    hits = round(count * norm.cdf(0.3 / sigma))
    found = certificate(votes_of(count - hits, hits, 0), Smoothing(sigma, count, threshold=float(norm.cdf(1))))
    assert found.radius == pytest.approx(0.3 - sigma, abs=1e-3)
    assert found.exclusive[1] == pytest.approx(0.3 + sigma, abs=1e-3)


def test_the_bounds_are_one_sided_clopper_pearson_bounds_of_all_classes() -> None:
    smoothing = Smoothing(0.5, 1000, alpha=0.01)
    found = certificate(votes_of(900, 60, 10, 30), smoothing)
    level = 0.01 / 6
    low = binomtest(900, 1000).proportion_ci(1 - 2 * level, "exact").low
    high = binomtest(60, 1000).proportion_ci(1 - 2 * level, "exact").high
    assert found.radius == pytest.approx(0.5 * norm.ppf(low))
    assert found.exclusive[0] == pytest.approx(-0.5 * norm.ppf(high))


def test_counted_votes_of_a_linear_classifier_certify_at_most_its_distance(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn((3, 4, 4), generator=generator)
    weights /= weights.norm()
    image = torch.full((3, 4, 4), 0.5)

    def decide(copies: torch.Tensor) -> NDArray[np.int64]:
        return (((copies - image) * weights).flatten(1).sum(1) > -0.05).long().numpy()

    smoothing = Smoothing(0.05, 2000, alpha=1e-6)  # 10 σ inside [0, 1]: nothing is clipped
    votes = count_votes(decide, image, smoothing, classes=2, seed=seed)
    assert votes.sum() == 2000
    found = certificate(votes, smoothing)
    assert found.answer == 1
    assert 0.03 < found.radius < 0.05


def test_votes_depend_on_the_seed_and_not_on_the_batch_size(seed: int) -> None:
    image = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(seed))

    def decide(copies: torch.Tensor) -> NDArray[np.int64]:
        assert copies.min() >= 0
        assert copies.max() <= 1
        return (copies[:, 0, 0, 0] * 100).long().numpy() % 4 - 1

    smoothing = Smoothing(0.5, 300)
    one, other = (count_votes(decide, image, smoothing, classes=3, seed=seed, batch_size=size) for size in (128, 7))
    assert (one == other).all()
    assert (one != count_votes(decide, image, smoothing, classes=3, seed=seed + 1)).any()
    assert one[-1] > 0  # REJECTED
    assert REJECTED == -1


def test_radii_grow_with_the_votes_and_with_their_number(rng: np.random.Generator) -> None:
    for _ in range(50):
        counts = rng.multinomial(1000, rng.dirichlet((8, 1, 1, 2))).astype(np.int64)
        found = certificate(counts, Smoothing(0.25))
        best = int(counts[:-1].argmax())
        assert found.answer in (best, None)
        assert found.exclusive[best] >= found.radius >= 0
        more = counts.copy()
        more[best] += more[-1]
        more[-1] = 0
        assert certificate(more, Smoothing(0.25)).radius >= found.radius
        assert certificate(10 * counts, Smoothing(0.25)).radius >= found.radius
        assert (certificate(10 * counts, Smoothing(0.25)).exclusive >= found.exclusive).all()
        strict = certificate(counts, Smoothing(0.25, threshold=0.8))
        assert strict.radius <= found.radius
        assert (strict.exclusive >= found.exclusive - 1e-12)[best]


def test_rejected_votes_certify_that_no_other_class_is_answered() -> None:
    found = certificate(votes_of(0, 0, 0, 1000), Smoothing(0.25))
    assert found.answer is None
    assert found.radius == 0
    assert (found.exclusive > 0.5).all()
    some = certificate(votes_of(700, 0, 300), Smoothing(0.25))
    none = certificate(votes_of(700, 300, 0), Smoothing(0.25))
    assert some.radius == none.radius
    assert some.exclusive[0] > none.exclusive[0]
    certain = certificate(votes_of(0, 1000, 0), Smoothing(0.25))
    assert (certain.answer, certain.exclusive[0]) == (1, 0)


@pytest.mark.parametrize(
    "options",
    [{"sigma": 0.0}, {"samples": 0}, {"threshold": 0.49}, {"threshold": 1.0}, {"alpha": 0.0}, {"alpha": 1.0}],
    ids=lambda options: next(iter(options)),
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Smoothing(**{"sigma": 0.25, **options})  # type: ignore[arg-type]


def test_votes_for_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="at least two classes"):
        certificate(votes_of(3, 1), Smoothing(0.25))
    with pytest.raises(InputError, match="got 0"):
        certificate(votes_of(0, 0, 0), Smoothing(0.25))
