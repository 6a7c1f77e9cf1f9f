"""Networks of the plane: results do not depend on the number of networks, and they learn the circles."""

from typing import Literal

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.errors import InputError
from models.geometry.circles import CirclesRecipe, History, draw_circles, draw_moons, epoch_orders, train_together
from models.geometry.plane import PlaneResNets
from models.objectives.least_action import LeastAction

pytestmark = pytest.mark.slow

PLAIN = LeastAction(fixed_weight=0)


class _Block(nn.Module):
    def __init__(self, width: int, batch_normalisation: bool) -> None:
        super().__init__()
        middle = [nn.BatchNorm1d(width)] if batch_normalisation else []
        self.branch = nn.Sequential(nn.Linear(2, width), *middle, nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _Ordinary(nn.Module):
    """One of the networks out of plain torch layers, on "images" ``(B, 2, 1, 1)``."""

    def __init__(self, networks: PlaneResNets, index: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *[_Block(networks.width, networks.batch_normalisation) for _ in range(networks.blocks)]
        )
        self.register_buffer("classifier", networks.classifier.clone())
        values = {name: value[:, index].detach() for name, value in networks.named_parameters()}
        with torch.no_grad():
            for number, block in enumerate(self.blocks):
                branch = block.branch
                branch[0].weight.copy_(values["inner_weight"][number])
                branch[0].bias.copy_(values["inner_bias"][number, 0])
                branch[-1].weight.copy_(values["outer_weight"][number])
                branch[-1].bias.copy_(values["outer_bias"][number, 0])

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images.flatten(1)) @ self.classifier.T


@pytest.mark.parametrize("batch_normalisation", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "objective",
    [LeastAction(fixed_weight=0.3), LeastAction(initial_weight=0.5, increase=0.7, update_every=2), PLAIN],
    ids=["fixed", "multipliers", "plain"],
)
def test_training_does_not_depend_on_the_other_networks(
    objective: LeastAction, optimizer: Literal["adam", "sgd"], batch_normalisation: bool, seed: int
) -> None:
    seeds = [seed, seed + 1, seed + 2]
    data = draw_circles(seeds, points=60)
    # In double precision: a bias ahead of batch normalisation has no gradient but rounding errors, and Adam follows
    # their signs.
    data = data._replace(points=data.points.double(), test_points=data.test_points.double())
    recipe = CirclesRecipe(epochs=3, batch_size=11, learning_rate=0.01, optimizer=optimizer)
    networks = PlaneResNets(seeds, blocks=3, width=4, batch_normalisation=batch_normalisation).double()
    ordinary = _Ordinary(networks, 1).double()
    history = train_together(networks, data, [PLAIN, objective, LeastAction()], recipe, seeds=seeds)

    alone = LeastAction(**objective.options())
    rate = recipe.learning_rate
    steps = (
        torch.optim.SGD(ordinary.parameters(), rate, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.Adam(ordinary.parameters(), rate)
    )
    costs = []
    for epoch in range(3):
        for batch in epoch_orders(seeds, epoch, 48)[1][:44].split(11):
            steps.zero_grad()
            value = alone.accumulate(ordinary, data.points[1, batch][:, :, None, None], data.labels[1, batch])
            steps.step()
            alone.after_step(value)
            costs.append(float(value.measures["transport_cost"]))
    assert np.reshape(costs, (3, 4)).mean(1) == pytest.approx(history.transport_cost[:, 1], rel=1e-3)
    ordinary.eval()
    with torch.no_grad():
        expected = ordinary(data.test_points[1][:, :, None, None])
    found = networks.paths(data.test_points)[-1, 1] @ networks.classifier.T
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def _trained(
    objectives: list[LeastAction], seeds: list[int], blocks: int = 9, **options: bool
) -> tuple[PlaneResNets, History, Tensor]:
    data = draw_circles(seeds, points=400)
    networks = PlaneResNets(seeds, blocks=blocks, width=8, **options)
    history = train_together(networks, data, objectives, CirclesRecipe(epochs=20), seeds=seeds)
    return networks, history, networks.paths(data.test_points)


def test_circles_are_learnt_and_least_action_moves_points_less(seed: int) -> None:
    seeds = [seed + number for number in range(10)]
    objectives = [PLAIN] * 10 + [LeastAction(fixed_weight=0.1)] * 10
    _, history, paths = _trained(objectives, seeds * 2)
    assert history.test_accuracy.shape == (20, 20)
    assert history.highest.max() <= 1
    assert (history.highest > 0.9).mean() >= 0.9
    plain, regular = np.split(history.transport_cost[-1], 2)
    assert (regular < plain).mean() >= 0.9
    assert history.cross_entropy[-1].mean() < history.cross_entropy[0].mean()
    for before, after in zip(paths[:-1, 0], paths[1:, 0], strict=True):
        apart = torch.cdist(before, after).square().numpy()
        assert apart[linear_sum_assignment(apart)].mean() <= float((after - before).square().sum(1).mean()) + 1e-5


def test_equal_seeds_are_equal_networks_data_and_runs(seed: int) -> None:
    networks, history, paths = _trained([PLAIN, PLAIN, PLAIN], [seed, seed + 1, seed], blocks=2)
    assert torch.allclose(networks.inner_weight[:, 0], networks.inner_weight[:, 2])
    assert np.allclose(history.cross_entropy[:, 0], history.cross_entropy[:, 2])
    assert not np.allclose(history.cross_entropy[:, 0], history.cross_entropy[:, 1])
    assert torch.allclose(paths[:, 0], paths[:, 2])


def test_weights_and_biases_have_the_given_deviation(seed: int) -> None:
    networks = PlaneResNets(range(seed, seed + 20), blocks=9, width=8, deviation=5.0)
    for name in ("inner_weight", "inner_bias", "outer_weight", "outer_bias"):
        assert float(networks.get_parameter(name).detach().std()) == pytest.approx(5, rel=0.25)


def test_an_instance_that_overflows_has_no_effect_on_others(seed: int) -> None:
    seeds = [seed, seed + 1]
    data = draw_circles(seeds, points=60)
    runs = []
    for factor in (1.0, 1e30):
        networks = PlaneResNets(seeds, blocks=4, width=4, batch_normalisation=False)
        with torch.no_grad():
            networks.outer_weight[:, 1] *= factor
        runs.append(train_together(networks, data, [PLAIN, PLAIN], CirclesRecipe(epochs=2), seeds=seeds))
    assert np.allclose(runs[0].cross_entropy[:, 0], runs[1].cross_entropy[:, 0])
    assert not np.isfinite(runs[1].cross_entropy[-1, 1])
    assert ((runs[1].test_accuracy >= 0) & (runs[1].test_accuracy <= 1)).all()


def test_moons_are_half_circles_around_two_centres() -> None:
    data = draw_moons([0, 1, 0], points=50, noise=0.0)
    for points, labels in ((data.points, data.labels), (data.test_points, data.test_labels)):
        centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[labels]
        torch.testing.assert_close((points - centres).norm(dim=2), torch.ones(labels.shape))
        assert bool(((points - centres)[..., 1] * (1 - 2 * labels) >= -1e-6).all())
    assert data.points.shape == (3, 40, 2)
    assert torch.equal(data.points[0], data.points[2])


def test_invalid_trainings_are_refused() -> None:
    data = draw_circles([0], points=20)
    networks = PlaneResNets([0], blocks=1, width=2)
    with pytest.raises(InputError, match="exponent 2"):
        train_together(networks, data, [LeastAction(exponent=1)], CirclesRecipe(), seeds=[0])
    with pytest.raises(InputError, match="as many networks"):
        train_together(networks, data, [PLAIN, PLAIN], CirclesRecipe(), seeds=[0])
    with pytest.raises(InputError, match="factor"):
        draw_circles([0], factor=1.5)
    with pytest.raises(InputError, match="blocks"):
        PlaneResNets([0], blocks=0, width=2)
