"""Adaptive attacks on linear networks and detectors, for which the solution is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks.adaptive.black_box import black_box, find_features, nearest_starts
from attacks.adaptive.descent import descend, without_component
from attacks.adaptive.feature_matching import match_features
from attacks.adaptive.result import AdaptiveResult, Forward
from attacks.adaptive.surrogate import Surrogate, fit_surrogate
from attacks.decision_based.search import Decide
from models.errors import AttackError, InputError

pytestmark = pytest.mark.slow

PIXELS = 3 * 4 * 4
BUDGET = 0.2

kinds = pytest.mark.parametrize("kind", ["selective", "orthogonal"])


class Linear:
    """A network of 2 classes that looks at the mean of the first half of the pixels, and a detector of the second half.

    Class 1 where the first half is bright, flagged where the second half is: either is changed without the other. Both
    look a little at the other half too, so that following one gradient moves the other.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        first = torch.cat([torch.ones(PIXELS // 2), 0.3 * torch.ones(PIXELS // 2)])
        self.network = nn.Linear(PIXELS, 2).requires_grad_(False)
        self.network.weight.data = torch.stack([-first, first])
        self.network.bias.data = torch.tensor([1.0, -1.0]) * 0.5 * first.sum()
        self.watched = torch.cat([0.3 * torch.ones(PIXELS // 2), torch.ones(PIXELS // 2)])
        self.limit = 0.5 * self.watched.sum()
        # Class 0 by a little, and flagged by a little.
        dark, bright = torch.full((6, PIXELS // 2), 0.42), torch.full((6, PIXELS // 2), 0.56)
        spread = 0.02 * torch.rand(6, PIXELS, generator=generator)
        self.images = (torch.cat([dark, bright], dim=1) + spread).view(6, 3, 4, 4)
        self.labels = torch.zeros(6, dtype=torch.int64)

    def margins(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.watched - self.limit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images.flatten(1)), self.margins(images)

    def columns(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and two columns of different units; the detector uses the first."""
        mean = images.flatten(1).mean(1)
        return self.network(images.flatten(1)), torch.stack([self.margins(images), 1e-3 * mean], dim=1)

    def decide(self, images: Tensor, rows: Tensor) -> Tensor:
        logits, margins = self.forward(images)
        return (logits.argmax(1) != self.labels[rows]) & (margins < 0)


@pytest.fixture
def linear(seed: int) -> Linear:
    made = Linear(seed)
    logits, margins = made.forward(made.images)
    assert (logits.argmax(1) == 0).all()
    assert (margins > 0).all()
    return made


def never(images: Tensor, rows: Tensor) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.bool)


def check_passes(found: AdaptiveResult, system: Linear) -> None:
    rows = torch.arange(len(found.images))
    assert torch.equal(system.decide(found.images, rows) & found.evaded, found.evaded)
    assert found.images.min() >= 0
    assert found.images.max() <= 1


# --- projected gradients


def test_projected_gradients_are_orthogonal(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, along = torch.randn(2, 5, 3, 4, 4, generator=generator)
    scales = torch.tensor([1.0, 1e-20, 1e15, 1e-30, 1.0]).view(-1, 1, 1, 1)
    along[4] = 0
    left = without_component(values, along * scales).flatten(1)
    lengths = left.norm(dim=1) * along.flatten(1).norm(dim=1)
    assert ((left * along.flatten(1)).sum(1).abs() <= 1e-5 * lengths + 1e-12).all()
    assert torch.equal(left[4], values[4].flatten())
    assert torch.allclose(without_component(along, along)[:4], torch.zeros_like(along[:4]), atol=1e-5)


@pytest.mark.parametrize(("kind", "kept"), [("orthogonal", True), ("selective", False)])
def test_only_orthogonal_steps_keep_the_margin_constant(linear: Linear, kind: str, kept: bool) -> None:
    """While the lead of the wrong class rises, the detector's margin stays. In the second run, without sign steps."""
    leads, margins = [], []

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        found = linear.forward(images)
        leads.append((found[0][0, 1] - found[0][0, 0]).item())
        margins.append(found[1][0].item())
        return found

    # Steps so small that hardly a pixel reaches the border of the ball, which is too small for the network to be wrong.
    steps = 400
    descend(
        forward, never, linear.images[:1], linear.labels[:1], kind=kind, epsilon=0.01, steps=steps, restarts=2
    )  # fmt: skip
    lead, margin = leads[steps + 15] - leads[steps], margins[steps + 15] - margins[steps]
    assert lead > 0
    assert (abs(margin) < 0.1 * lead) == kept


@kinds
def test_descent_evades_inside_its_budget(linear: Linear, kind: str, seed: int) -> None:
    before = linear.images.clone()
    found = descend(
        linear.forward, linear.decide, linear.images, linear.labels, kind=kind, epsilon=BUDGET, steps=40, seed=seed
    )
    assert found.evaded.all()
    check_passes(found, linear)
    assert (found.images - linear.images).abs().max() <= BUDGET + 1e-6
    assert torch.equal(linear.images, before)
    assert torch.equal(found.gradients, found.queries * (1 if kind == "selective" else 2))


@kinds
def test_descent_fails_within_too_small_a_budget(linear: Linear, kind: str) -> None:
    found = descend(linear.forward, linear.decide, linear.images, linear.labels, kind=kind, epsilon=0.005, steps=20)
    assert not found.evaded.any()
    assert torch.equal(found.images, linear.images)


@kinds
def test_descent_fails_against_a_detector_that_accepts_nothing(linear: Linear, kind: str) -> None:
    found = descend(linear.forward, never, linear.images, linear.labels, kind=kind, epsilon=1.0, steps=7, restarts=3)
    assert not found.evaded.any()
    assert torch.equal(found.images, linear.images)
    assert (found.queries == 21).all()


@kinds
def test_images_do_not_influence_each_other(linear: Linear, kind: str) -> None:
    def run(rows: Tensor) -> AdaptiveResult:
        decide = lambda images, which: linear.decide(images, rows[which])  # noqa: E731
        return descend(
            linear.forward, decide, linear.images[rows], linear.labels[rows], kind=kind, epsilon=BUDGET, steps=30,
            restarts=1,
        )  # fmt: skip

    together = run(torch.arange(6))
    for row in range(6):
        alone = run(torch.tensor([row]))
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-6)
        assert torch.equal(alone.queries[0], together.queries[row])


@pytest.mark.parametrize(
    "options",
    [{"kind": "both"}, {"kind": "selective", "epsilon": 0.0}, {"kind": "selective", "steps": 0}],
    ids=lambda options: str(options),
)
def test_descent_refuses_invalid_options(linear: Linear, options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        descend(linear.forward, linear.decide, linear.images, linear.labels, **({"epsilon": 0.1} | options))  # type: ignore[arg-type]


@kinds
@pytest.mark.parametrize("where", ["lead", "margin"])
def test_gradients_that_are_not_finite_stop_a_descent(linear: Linear, kind: str, where: str) -> None:
    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, margins = linear.forward(images)
        root = (images.flatten(1).sum(1) - images.detach().flatten(1).sum(1)).sqrt()  # whose slope at 0 is infinite
        return (logits + root[:, None], margins) if where == "lead" else (logits, margins + root)

    labels = linear.labels if where == "lead" else 1 - linear.labels  # so that the step follows the margin
    with pytest.raises(AttackError, match="finite gradients"):
        descend(forward, never, linear.images, labels, kind=kind, epsilon=BUDGET, steps=5)  # type: ignore[arg-type]


def test_gradients_that_are_not_finite_stop_the_matching(linear: Linear) -> None:
    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, columns = linear.columns(images)
        return logits, columns * (images.flatten(1).sum(1, keepdim=True) * 1e38) * 1e38

    with pytest.raises(AttackError, match="finite gradients"):
        match_features(
            forward, never, linear.images, linear.images, linear.labels, torch.zeros(6, 2), scale=torch.ones(2), steps=3
        )


# --- decisions


def test_the_nearest_start_that_is_allowed() -> None:
    targets = torch.tensor([[0.0], [1.0], [5.0]])
    pool = torch.tensor([[0.1], [0.9], [4.0]])
    allowed = torch.tensor([[False, True, True], [True, False, True], [False, False, False]])
    starts, found = nearest_starts(targets, pool, allowed)
    assert starts.tolist() == [pool[1].tolist(), pool[0].tolist(), targets[2].tolist()]
    assert found.tolist() == [True, True, False]


def test_black_box_approaches_the_image_and_passes(linear: Linear, seed: int) -> None:
    starts = torch.cat([torch.ones(PIXELS // 2), torch.zeros(PIXELS // 2)]).view(1, 3, 4, 4).repeat(6, 1, 1, 1)
    starts[5] = linear.images[5]  # does not pass
    few = black_box(linear.decide, linear.images, starts, steps=50, total_queries=90, seed=seed)
    assert few.evaded.tolist() == [True] * 5 + [False]
    assert (few.queries <= 90).all()
    found = black_box(linear.decide, linear.images, starts, steps=5, max_queries=100, first_queries=30, seed=seed)
    assert found.evaded.tolist() == [True] * 5 + [False]
    check_passes(found, linear)
    nearer = (found.images - linear.images).flatten(1).norm(dim=1)[:5]
    assert (nearer < 0.5 * (starts - linear.images).flatten(1).norm(dim=1)[:5]).all()
    assert torch.equal(found.images[5], linear.images[5])
    assert (found.queries[:5] > 30).all()


def test_feature_search_finds_near_accepted_features(seed: int) -> None:
    """Columns of different units; queries are in the features' own units, inside their bounds."""
    low, high = torch.tensor([0.0, -1e-4, 7.0]), torch.tensor([10.0, 1e-4, 7.0])
    features = torch.tensor([[9.0, 0.5e-4, 7.0], [8.0, 0.0, 7.0]])
    starts = torch.tensor([[1.0, -1e-4, 7.0], [9.5, 0.0, 7.0]])
    queried = []

    def decide(points: Tensor, rows: Tensor) -> Tensor:
        queried.append(points)
        return points[:, 0] < 6

    found = find_features(
        decide, features, starts, low=low, high=high, steps=8, max_queries=200, first_queries=50, seed=seed
    )
    assert found.evaded.tolist() == [True, False]  # the second start does not pass
    assert 5 < found.images[0, 0] < 6
    assert abs(found.images[0, 1] - features[0, 1]) < 0.5e-4
    assert torch.equal(found.images[1], features[1])
    every = torch.cat(queried)
    assert (every >= low - 1e-6).all()
    assert (every <= high + 1e-6).all()


# --- equation 42


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_an_image_with_the_wanted_features_is_found(linear: Linear, loss: str) -> None:
    starts = linear.images.clone()
    starts[:, 0] += 0.3  # wrong already, and flagged
    targets = linear.columns(linear.images)[1].clone()
    targets[:, 0] = -1.0
    found = match_features(
        linear.columns,
        linear.decide,
        linear.images,
        starts,
        linear.labels,
        targets,
        scale=torch.tensor([1.0, 1e-3]),
        loss=loss,  # type: ignore[arg-type]
        steps=40,
        learning_rate=0.02,
    )
    assert found.evaded.all()
    check_passes(found, linear)
    reached = linear.columns(found.images)[1]
    assert (reached[:, 0] < linear.columns(starts)[1][:, 0]).all()
    assert (found.gradients == 160).all()


def test_matching_returns_the_nearest_accepted_iterate(linear: Linear) -> None:
    seen: list[Tensor] = []

    def decide(images: Tensor, rows: Tensor) -> Tensor:
        passed = linear.decide(images, rows)
        seen.append(torch.where(passed, (images - linear.images).flatten(1).norm(dim=1), torch.inf))
        return passed

    starts = linear.images.clone()
    starts[:, 0] += 0.3
    targets = linear.columns(linear.images)[1] - 1.0
    found = match_features(
        linear.columns, decide, linear.images, starts, linear.labels, targets, scale=torch.ones(2), steps=40
    )
    assert found.evaded.any()
    nearest = torch.stack(seen).amin(0)
    distance = (found.images - linear.images).flatten(1).norm(dim=1)
    assert torch.allclose(distance[found.evaded], nearest[found.evaded])
    assert torch.isinf(nearest[~found.evaded]).all()


def test_matching_returns_failures_unchanged(linear: Linear) -> None:
    found = match_features(
        linear.columns, never, linear.images, linear.images, linear.labels, torch.zeros(6, 2), scale=torch.ones(2),
        steps=5,
    )  # fmt: skip
    assert not found.evaded.any()
    assert torch.equal(found.images, linear.images)


@pytest.mark.parametrize(
    "options", [{"weights": ()}, {"loss": "hinge"}, {"steps": 0}], ids=lambda options: str(options)
)
def test_matching_refuses_invalid_options(linear: Linear, options: dict[str, object]) -> None:
    forward: Forward = linear.columns
    decide: Decide = linear.decide
    match: Callable[..., AdaptiveResult] = match_features
    with pytest.raises(InputError, match="expected"):
        match(
            forward, decide, linear.images, linear.images, linear.labels, torch.zeros(6, 2), scale=torch.ones(2),
            **options,
        )  # fmt: skip


# --- the surrogate


def fit_on_steps(seed: int) -> tuple[Surrogate, Tensor, Tensor]:
    """A surrogate of a step function, such as the score of a forest."""
    inputs = torch.randn(600, 5, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1, 10, 1e-3, 1, 0])
    margins = torch.floor(3 * (inputs[:, 0] + inputs[:, 1] / 10)) / 3 + 0.1
    return fit_surrogate(inputs[:400], margins[:400], epochs=40, seed=seed), inputs[400:], margins[400:]


def test_the_surrogate_is_on_the_right_side_and_has_a_slope(seed: int) -> None:
    surrogate, inputs, margins = fit_on_steps(seed)
    assert ((surrogate(inputs) >= 0) == (margins >= 0)).float().mean() > 0.85
    inputs = inputs.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(surrogate(inputs).sum(), inputs)
    assert (gradient[:, 0] > 0).float().mean() > 0.85
    assert not any(parameter.requires_grad for parameter in surrogate.parameters())


def test_surrogate_depends_on_its_seed_and_restores_from_arrays(seed: int) -> None:
    state = torch.random.get_rng_state()
    first, inputs, _ = fit_on_steps(seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first(inputs), fit_on_steps(seed)[0](inputs))
    assert torch.equal(Surrogate.from_arrays(first.state_dict())(inputs), first(inputs))


@pytest.mark.parametrize(
    ("inputs", "margins"),
    [
        (torch.zeros(0, 3), torch.zeros(0)),
        (torch.zeros(4, 3), torch.zeros(3)),
        (torch.full((4, 3), torch.nan), torch.zeros(4)),
    ],
    ids=["none", "not as many", "not finite"],
)
def test_the_surrogate_refuses(inputs: Tensor, margins: Tensor) -> None:
    with pytest.raises(InputError, match="expected"):
        fit_surrogate(inputs, margins)
