"""FGM, BIM, PGD and APGD, compared with their papers, and their cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.apgd import APGD, _checkpoints
from attacks.bim import BIM
from attacks.common.base import Attack, ImageNoise
from attacks.common.norms import Norm, perturbation_norms
from attacks.fgm import FGM
from attacks.pgd import PGD
from models.batching import gradient_bytes
from models.errors import InputError
from tests.attacks.digits import Digits

EPSILON = 0.05


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return F.cross_entropy(network(images).double(), labels).item()


def _robust(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    with torch.no_grad():
        return int((network(images).argmax(1) == labels).sum())


def test_fgm_is_its_equation(digits_network: Digits) -> None:
    network, images, labels = digits_network
    exact = images.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(network.double()(exact), labels, reduction="sum"), exact)
    expected = (images.double() + EPSILON * gradient.sign()).clamp(0, 1)
    attacked = FGM(epsilon=EPSILON)(network.float(), images, labels)
    # Where the derivative is rounding error, its sign says nothing.
    clear = gradient.abs() > 1e-4 * gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert clear.double().mean() > 0.5
    torch.testing.assert_close(attacked[clear].double(), expected[clear], atol=1e-6, rtol=0)


def test_gradients_survive_confidence() -> None:
    """A softmax that is 1 in float32 has the gradient 0 in float32, and the image would be left as it is."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[15.0, 15.0, -15.0], [0.0, 0.0, 0.0]]))
        network[1].bias.zero_()
    image = torch.tensor([0.9, 0.9, 0.1]).reshape(1, 3, 1, 1)
    assert F.softmax(network(image), dim=1)[0, 0] == 1
    attacked = FGM(epsilon=0.1)(network, image, torch.tensor([0]))
    torch.testing.assert_close(attacked.flatten(), torch.tensor([0.8, 0.8, 0.2]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack_class", [BIM, PGD, APGD])
def test_more_steps_raise_the_loss(attack_class: type[Attack], norm: Norm, digits_network: Digits) -> None:
    epsilon = EPSILON if norm == "linf" else 0.7
    attack = attack_class(epsilon=epsilon, norm=norm, steps=20)  # type: ignore[call-arg]
    attacked = attack(*digits_network)
    network, images, labels = digits_network
    one_step = FGM(epsilon=epsilon, norm=norm)(*digits_network)
    assert _loss(network, images, labels) < _loss(network, one_step, labels)
    # BIM's α = ε/k barely reaches the border of the ball, the others walk along it.
    assert _loss(network, attacked, labels) > (0.8 if attack_class is BIM else 0.95) * _loss(network, one_step, labels)
    sizes = perturbation_norms(images, attacked)[0 if norm == "linf" else 1]
    assert sizes.max() > (0.8 if attack_class is BIM else 0.9) * epsilon


def test_default_steps_are_those_of_the_papers(digits_network: Digits) -> None:
    network, images, labels = digits_network
    attacked = BIM(epsilon=EPSILON, steps=4)(network, images, labels)
    by_hand = images
    for _ in range(4):
        by_hand = FGM(epsilon=EPSILON / 4)(network, by_hand, labels)
    torch.testing.assert_close(attacked, by_hand, atol=1e-6, rtol=0)
    assert PGD(epsilon=0.04, steps=20)._step == pytest.approx(2.5 * 0.04 / 20)
    assert PGD(epsilon=0.04, steps=1)._step == 0.04
    assert APGD(epsilon=0.04)._step == 0.04
    assert BIM().parameters() | {"steps": 100, "epsilon": 0.03} == BIM().parameters()
    assert APGD().parameters() | {"steps": 100, "epsilon": 0.03} == APGD().parameters()


@pytest.mark.parametrize("attack_class", [BIM, PGD, APGD])
def test_a_step_above_epsilon_requires_allow_large_step(attack_class: type[Attack]) -> None:
    options = {"epsilon": 0.03, "step": 0.1}
    with pytest.raises(InputError, match="allow_large_step=True"):
        attack_class(**options)  # type: ignore[arg-type]
    assert attack_class(**options, allow_large_step=True).parameters()["step"] == 0.1  # type: ignore[arg-type, call-arg]
    assert attack_class(epsilon=0.03, step=0.03).parameters()["step"] == 0.03  # type: ignore[call-arg]
    for step in (0.0, -0.01, float("nan"), float("inf")):
        with pytest.raises(InputError, match="step"):
            attack_class(epsilon=0.03, step=step, allow_large_step=True)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="steps"):
        attack_class(steps=0)  # type: ignore[call-arg]


@pytest.mark.parametrize("attack_class", [BIM, PGD, APGD])
@pytest.mark.parametrize("allow", ["no", "yes", "", 0, 1, None])
def test_allow_large_step_is_true_or_false(attack_class: type[Attack], allow: object) -> None:
    for step in (None, 0.01, 0.1):
        with pytest.raises(InputError, match="allow_large_step as True or False"):
            attack_class(epsilon=0.03, step=step, allow_large_step=allow)  # type: ignore[call-arg]


@pytest.mark.parametrize("attack_class", [FGM, PGD, APGD])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_batches_change_rounding_only(attack_class: type[Attack], norm: Norm, digits_network: Digits) -> None:
    options = {"epsilon": EPSILON, "norm": norm} | ({} if attack_class is FGM else {"steps": 3})
    whole = attack_class(**options, batch_size=64)(*digits_network)  # type: ignore[arg-type]
    split = attack_class(**options, batch_size=23)(*digits_network)  # type: ignore[arg-type]
    # A sign of a gradient that is rounding error may flip; nothing else may.
    assert ((whole - split).abs() > 1e-5).float().mean() < 0.01


def test_restarts_only_help(digits_network: Digits) -> None:
    network, images, labels = digits_network
    for attack_class in (PGD, APGD):
        once = attack_class(epsilon=0.02, steps=8, restarts=1, seed=5)(network, images, labels)
        thrice = attack_class(epsilon=0.02, steps=8, restarts=3, seed=5)(network, images, labels)
        fooled_once = network(once).argmax(1) != labels
        fooled_thrice = network(thrice).argmax(1) != labels
        assert (fooled_thrice | ~fooled_once).all()
        assert _loss(network, thrice, labels) >= _loss(network, once, labels) - 1e-6


def test_starts_are_random_and_seeded(digits_network: Digits) -> None:
    network, images, labels = digits_network
    first, second = (PGD(epsilon=EPSILON, steps=1, step=1e-6, seed=s)(network, images, labels) for s in (0, 1))
    assert (first - second).abs().max() > 0.5 * EPSILON
    # Pixels away from 0 and 1 are not clipped: their noise is uniform in the ball.
    free = (images > EPSILON) & (images < 1 - EPSILON)
    noise = ((first - images)[free] / EPSILON).double()
    assert abs(noise.mean()) < 5 / (3 * len(noise)) ** 0.5
    assert abs(noise.square().mean() - 1 / 3) < 5 * (4 / 45 / len(noise)) ** 0.5


def test_apgd_looks_at_the_papers_checkpoints() -> None:
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert max(_checkpoints(1)) <= 1


class Bumpy(nn.Module):
    """Two layers in float64 whose loss has many hills. Keeps the images that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = 2 * torch.randn(12, 16, dtype=torch.float64, generator=generator)
        self.second = torch.randn(16, 3, dtype=torch.float64, generator=generator)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        return torch.sin((images.flatten(1) - 0.5) @ self.first) @ self.second


def _algorithm_1(
    network: nn.Module, natural: Tensor, label: Tensor, start: Tensor, epsilon: float, norm: Norm
) -> tuple[list[Tensor], list[int]]:
    """The points of 100 steps of Algorithm 1 of Croce and Hein for one image, and which condition halved the step.

    A checkpoint w is looked at once f(x(w)) is known, since condition 1 sums up to it.
    """

    def loss_and_direction(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        loss = F.cross_entropy(network(x), label)
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.item(), gradient.sign() if norm == "linf" else gradient / gradient.norm()

    def projected(x: Tensor) -> Tensor:
        if norm == "linf":
            return x.clamp((natural - epsilon).clamp(min=0), (natural + epsilon).clamp(max=1))
        length = float((x - natural).norm())
        return (x if length <= epsilon else natural + (x - natural) * (epsilon / length)).clamp(0, 1)

    points, halvings = [start], []
    x_before = x = x_max = start
    f, direction = loss_and_direction(x)
    f_max, direction_max, f_max_at_last, halved_at_last, last, rises = f, direction, f, False, 0, 0
    eta = 2 * epsilon
    for step in range(1, 101):
        z = projected(x + eta * direction)
        moved = z if step == 1 else projected(x + 0.75 * (z - x) + 0.25 * (x - x_before))
        x_before, x, f_before = x, moved, f
        f, direction = loss_and_direction(x)
        points.append(x)
        rises += f > f_before
        if f > f_max:
            x_max, f_max, direction_max = x, f, direction
        if step in (22, 41, 57, 70, 80, 87, 93, 99):
            few_rises, no_gain = rises < 0.75 * (step - last), not halved_at_last and f_max == f_max_at_last
            halved_at_last = few_rises or no_gain
            if halved_at_last:
                eta, x, f, direction = eta / 2, x_max, f_max, direction_max
                halvings.append(1 if few_rises else 2)
            f_max_at_last, last, rises = f_max, step, 0
    return points, halvings


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_goes_step_by_step_where_the_papers_algorithm_goes(norm: Norm) -> None:
    """At the paper's first step of 2 epsilon, in float64, so that rounding cannot turn the sign of a gradient."""
    network, epsilon = Bumpy(), 0.1
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(48, 3, 2, 2, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (48,), generator=generator)
    attack = APGD(epsilon=epsilon, step=2 * epsilon, allow_large_step=True, steps=100, restarts=1, norm=norm)
    attack.run(network, images, labels, ImageNoise(0, 0))
    walked = torch.stack(network.shown, dim=1)
    assert walked.shape == (48, 101, 3, 2, 2)
    conditions: list[int] = []
    for i in range(len(images)):
        points, halvings = _algorithm_1(network, images[i : i + 1], labels[i : i + 1], walked[i, :1], epsilon, norm)
        # At a maximum rounding decides which of two points 1e-8 apart is the higher; a wrong rule moves 1e-3.
        torch.testing.assert_close(walked[i], torch.cat(points), atol=1e-6, rtol=0)
        conditions += halvings
    # Steps were halved, and not at every checkpoint: what is compared depends on it. Condition 2 alone needs steps that
    # rise and yet stay below the maximum, which these images have in L2.
    assert set(conditions) == ({1} if norm == "linf" else {1, 2})
    assert 0 < len(conditions) < 8 * len(images)


def test_apgd_finds_at_least_what_pgd_finds(digits_network: Digits) -> None:
    network, images, labels = digits_network
    pgd = PGD(epsilon=0.03, steps=40)(network, images, labels)
    apgd = APGD(epsilon=0.03, steps=40)(network, images, labels)
    assert _robust(network, apgd, labels) <= _robust(network, pgd, labels) + 1
    assert _loss(network, apgd, labels) >= 0.97 * _loss(network, pgd, labels)


def test_a_step_costs_one_forward_and_one_backward_pass(digits_network: Digits) -> None:
    network, images, labels = digits_network
    gradient_bytes(network, images[:1])  # measured once for a network
    forward: list[int] = []
    backward: list[int] = []

    def count(module: nn.Module, arguments: tuple[Tensor], logits: Tensor) -> None:
        forward.append(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda grad: backward.append(len(grad)))

    network.register_forward_hook(count)
    # One more image each time: that is how the number of classes is found out.
    for attack, forwards, backwards in (
        (FGM(), 1, 1),
        (BIM(steps=5), 5, 5),
        (PGD(steps=5), 5, 5),
        (APGD(steps=5, restarts=1), 6, 5),
    ):
        forward.clear()
        backward.clear()
        attack(network, images, labels)
        assert sum(forward) == forwards * len(images) + 1
        assert sum(backward) == backwards * len(images)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_channels_last_images_keep_their_layout(digits_network: Digits) -> None:
    network, images, labels = digits_network
    images = images.contiguous(memory_format=torch.channels_last)
    attacked = FGM(epsilon=EPSILON)(network.to(memory_format=torch.channels_last), images, labels)
    assert attacked.is_contiguous(memory_format=torch.channels_last)
