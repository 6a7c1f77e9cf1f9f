"""Black-box attacks, compared with ART, with the authors' code and with their papers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import Attack, build_attack
from attacks.boundary import Boundary
from attacks.common.margins import margins
from attacks.common.noise import ImageNoise
from attacks.common.squares import _hill, propose_l2
from attacks.decision_based.starts import nearest_of_class, network_decision, random_starts
from attacks.hop_skip_jump import HopSkipJump
from attacks.pixel import Pixel, _children
from attacks.square import Square, _side
from attacks.transfer import Transfer
from attacks.zoo import ZOO, _Adam, _Orders
from models.batching import gradient_bytes
from models.errors import InputError, UnknownNameError
from tests.attacks.digits import Digits, digits

pytestmark = pytest.mark.slow

QUICK: dict[str, dict[str, Any]] = {
    "boundary": {"steps": 40},
    "hop_skip_jump": {"steps": 1},
    "pixel": {"pixels": 8, "population": 10, "steps": 3},
    "square": {"steps": 30, "epsilon": 0.1},
    "transfer": {"attack": "fgm", "rounds": 1, "epsilon": 0.1},
    "zoo": {"steps": 1, "learning_rate": 0.1},
}
all_of_them = pytest.mark.parametrize("name", sorted(QUICK))


class _Counted:
    """Number of images of one shape that an attack gives to a network, without those that measure its memory."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        gradient_bytes(network, images[:1])  # measured once for a network
        self.images = 0
        self._hook = network.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.images += len(arguments[0])

    def stop(self) -> int:
        self._hook.remove()
        return self.images


def _correct(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1) == labels


def _some(made: Digits, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and the first images that it classifies correctly"""
    keep = _correct(*made).nonzero()[:count, 0]
    return made.network, made.images[keep], made.labels[keep]


def _measured(attack: Attack, made: Digits, count: int) -> tuple[float, Tensor, int]:
    """Success rate, norms of the perturbations, and number of queries."""
    network, images, labels = _some(made, count)
    counted = _Counted(network, images)
    attacked = attack(network, images, labels)
    queries = counted.stop()
    adversarial = ~_correct(network, attacked, labels)
    return float(adversarial.double().mean()), (attacked - images).flatten(1).norm(dim=1)[adversarial], queries


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (HopSkipJump(steps=8), HopSkipJump(steps=8, engine="art")),
        (Boundary(steps=1100), Boundary(steps=45, engine="art")),
    ],
    ids=["hop_skip_jump", "boundary"],
)
def test_nearer_than_art_with_as_many_queries(ours: Attack, theirs: Attack, digits_network: Digits) -> None:
    rate, l2, queries = _measured(ours, digits_network, 6)
    their_rate, their_l2, their_queries = _measured(theirs, digits_network, 6)
    assert queries <= 1.1 * their_queries
    assert rate >= their_rate
    assert rate == 1
    assert l2.mean() <= their_l2.mean()


def test_hop_skip_jump_in_linf_beside_art(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 4)
    sizes = []
    for engine in ("torch", "art"):
        attacked = build_attack("hop_skip_jump", {"steps": 6, "norm": "linf", "engine": engine})(
            network, images, labels
        )
        assert not _correct(network, attacked, labels).any()
        sizes.append((attacked - images).abs().flatten(1).amax(1))
    assert sizes[0].mean() <= sizes[1].mean()


@pytest.mark.parametrize("attack_class", [HopSkipJump, Boundary])
def test_art_repeats_itself_under_a_seed(attack_class: Any, digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 2)
    first, again = (attack_class(steps=2, engine="art")(network, images, labels) for _ in range(2))
    assert torch.equal(first, again)


@all_of_them
def test_misclassified_images_are_unchanged(name: str, digits_network: Digits) -> None:
    network, images, labels = digits_network.network, digits_network.images[:6], digits_network.labels[:6].clone()
    with torch.no_grad():
        labels[::2] = network(images[::2]).topk(2).indices[:, 1]  # to be wrong by a clear lead
    attacked = build_attack(name, QUICK[name])(network, images, labels)
    assert torch.equal(attacked[::2], images[::2])
    assert not torch.equal(attacked, images)


@pytest.mark.parametrize("name", ["boundary", "hop_skip_jump", "pixel", "square", "zoo"])
def test_other_batches_change_next_to_nothing(name: str, digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 12)
    # Rounding may decide otherwise about a point that lies on a boundary, hence not every single image.
    together, apart = (build_attack(name, QUICK[name] | {"batch_size": n})(network, images, labels) for n in (12, 5))
    assert ((together - apart).abs().flatten(1).amax(1) < 1e-4).double().mean() >= 0.7


@pytest.mark.parametrize("attack", [HopSkipJump(steps=3), Boundary(steps=300)], ids=["hop_skip_jump", "boundary"])
def test_adversarial_images_are_adversarial_in_any_batch(attack: Attack, digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 10)
    attacked = attack(network, images, labels)
    assert not _correct(network, attacked, labels).any()
    assert not any(_correct(network, attacked[i : i + 1], labels[i : i + 1]).item() for i in range(10))


def test_the_search_keeps_to_its_limit(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 5)
    for attack in (HopSkipJump(total_queries=150), Boundary(total_queries=150)):
        counted = _Counted(network, images)
        attack(network, images, labels)
        # Above the search's own: one for the number of classes, one for each image, up to 100 tries for its start.
        assert 100 * 5 < counted.stop() <= 1 + (150 + 1 + 100) * 5


def test_starts_are_wrong_and_belong_to_their_image(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 8)
    decide = network_decision(network, labels)
    starts = random_starts(decide, images, ImageNoise(3, 0), 100)
    assert not _correct(network, starts, labels).any()
    later = random_starts(network_decision(network, labels[5:]), images[5:], ImageNoise(3, 5), 100)
    assert torch.equal(later, starts[5:])


def test_an_image_of_the_class_of_noise_has_a_start(seed: int) -> None:
    """A network that calls all noise of single pixels class 0, and what is dark class 1."""

    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(images)), 10 * (0.44 - images.flatten(1).mean(1))], dim=1)

    image = torch.full((1, 3, 16, 16), 0.6)
    attacked = HopSkipJump(steps=3, seed=seed)(Brightness(), image, torch.zeros(1, dtype=torch.int64))
    assert attacked.mean() < 0.44


def test_a_targeted_start_is_the_nearest_of_its_class() -> None:
    images = torch.tensor([0.0, 0.1, 0.35, 0.9]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    predicted, targets = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 2, 0, 5])
    starts = nearest_of_class(images, predicted, targets)
    assert starts[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.9, 0.0, 0.9])  # no image is of class 5


@pytest.mark.parametrize("attack", [HopSkipJump, Boundary])
def test_a_targeted_attack_starts_at_random_without_an_image_of_that_class(attack: Any, seed: int) -> None:
    """A network whose class is the image's brightest channel; all images given are brightest in the first."""

    class Brightest(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 10 * images.mean((2, 3))

    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.2
    images[:, 0] += 0.5
    attacked = attack(steps=3, target=2, seed=seed)(Brightest(), images, torch.zeros(4, dtype=torch.int64))
    assert (Brightest()(attacked).argmax(1) == 2).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_fools_as_many_as_its_authors_code(norm: Any, digits_network: Digits) -> None:
    from pyautoattack.square import SquareAttack

    network, images, labels = _some(digits_network, 40)
    epsilon, steps = (0.12, 150) if norm == "linf" else (2.0, 300)
    name = {"linf": "Linf", "l2": "L2"}[norm]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        other = SquareAttack(network, norm=name, n_queries=steps, eps=epsilon, seed=0, device="cpu")
        theirs = other.perturb(images, labels)
    ours = Square(epsilon=epsilon, steps=steps, norm=norm)(network, images, labels)
    left, left_by_theirs = (int(_correct(network, attacked, labels).sum()) for attacked in (ours, theirs))
    assert left < 37  # some are adversarial
    # Both are random: of 40 coins each, the sums differ by 18 once in ten thousand times.
    assert left <= left_by_theirs + 18


def test_square_shrinks_by_the_schedule() -> None:
    sides = [_side(done, 0.8, 32, 32) for done in (0.0005, 0.004, 0.015, 0.04, 0.09, 0.15, 0.3, 0.5, 0.7, 1.0)]
    assert sides == [round((0.8 / 2**k) ** 0.5 * 32) for k in range(10)]
    assert _side(0.0001, 1.0, 4, 4) == 3
    assert _side(1.0, 0.01, 4, 4) == 1


def test_square_in_l2_moves_length_and_keeps_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    natural = 0.4 + 0.2 * torch.rand((3, 3, 12, 12), generator=generator)
    noise = torch.randn(natural.shape, generator=generator)
    best = natural + 0.3 * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
    tried = propose_l2(natural, best, 0.5, 4, torch.rand((3, 9), generator=generator))
    assert (tried - natural).flatten(1).norm(dim=1).tolist() == pytest.approx([0.5] * 3, rel=1e-4)
    changed = (tried != best).any(1).flatten(1).sum(1)
    assert ((changed > 0) & (changed <= 32)).all()  # two squares of 4 x 4


def test_a_hill_is_highest_in_the_middle() -> None:
    hill = _hill(5, 9)
    assert hill.norm() == pytest.approx(1)
    assert hill.argmax() == 2 * 9 + 4
    assert (hill >= 0).all()


def test_zoo_estimates_the_gradient_of_the_margin(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 3)
    network = network.double()
    at = (0.1 + 0.8 * images.double()).requires_grad_(True)
    (exact,) = torch.autograd.grad(margins(network(at), labels).sum(), at)
    coordinates = torch.stack([torch.randperm(768, generator=torch.Generator().manual_seed(k))[:50] for k in range(3)])
    slopes = ZOO(width=1e-5)._slopes(network, at.detach().flatten(1), coordinates, labels, False, images.shape[1:])
    expected = exact.flatten(1).gather(1, coordinates)
    # The network is linear but where a unit switches on or off within the difference.
    assert ((slopes - expected).abs() < 1e-3 * expected.abs().max()).double().mean() > 0.9


def test_zoo_steps_are_adams(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    at = 0.5 + 0.01 * torch.rand((2, 6), generator=generator)
    reference = at.clone().requires_grad_(True)
    theirs, ours = torch.optim.Adam([reference], lr=0.02), _Adam(at, 0.02)
    for _ in range(5):
        slopes = torch.randn((2, 6), generator=generator)
        order = torch.randperm(6, generator=generator).expand(2, 6)
        ours.step(at, order, slopes.gather(1, order))
        reference.grad = slopes
        theirs.step()
    torch.testing.assert_close(at, reference.detach())


def test_zoo_visits_all_coordinates_before_any_again(seed: int) -> None:
    orders = _Orders(ImageNoise(seed, 0).generators(2, torch.device("cpu")), 12, torch.device("cpu"))
    for _ in range(3):
        visited = torch.cat([orders.take(4) for _ in range(3)], dim=1)
        assert (visited.sort(dim=1).values == torch.arange(12)).all()


def test_zoo_makes_the_documented_number_of_queries(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 4)
    wrong = (labels[:1] + 1) % 10  # misclassified: only looked at
    images, labels = torch.cat([images, images[:1]]), torch.cat([labels, wrong])
    counted = _Counted(network, images)
    ZOO(steps=3, coordinates=20)(network, images, labels)
    # One more for the number of classes.
    assert counted.stop() == 1 + 5 + 4 * 3 * (2 * 20 + 1)


def test_zoo_returns_the_nearest_adversarial_point(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 2)
    rows = [ZOO(steps=steps, coordinates=192, learning_rate=0.1)(network, images, labels) for steps in (4, 6)]
    early, late = (~_correct(network, attacked, labels) for attacked in rows)
    assert (late | ~early).all()  # adversarial images stay adversarial
    sizes = [(attacked - images).flatten(1).norm(dim=1) for attacked in rows]
    assert (sizes[1] <= sizes[0] + 1e-6)[early].all()


def test_pixel_changes_no_more_than_its_pixels(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 8)
    for pixels in (1, 3):
        attacked = Pixel(pixels=pixels, population=12, steps=4)(network, images, labels)
        changed = (attacked != images).any(dim=1).flatten(1).sum(1)
        assert changed.max() <= pixels
        assert changed.min() >= 1


def test_pixel_finds_the_one_pixel_that_counts(seed: int) -> None:
    """A network that looks at one pixel alone."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[1, 27], network[1].bias[:] = 10.0, torch.tensor([5.0, 0.0])
    image, label = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
    attacked = Pixel(pixels=1, population=200, steps=30, seed=seed)(network, image, label)
    assert network(attacked).argmax(1).item() == 1
    assert (attacked != image).any(1).nonzero().tolist() == [[0, 3, 3]]


def test_pixel_children_are_of_three_different_parents() -> None:
    generators = ImageNoise(0, 0).generators(1, torch.device("cpu"))
    # In powers of two every sum a + (b - c) / 2 tells its parents.
    values = 2.0 ** -torch.arange(2, 8)
    children = _children(values.reshape(1, 6, 1, 1), generators).flatten().tolist()
    sums = {
        max(0.0, float(a + (b - c) / 2))
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        for k, c in enumerate(values)
        if len({i, j, k}) == 3
    }
    assert set(children) <= sums


def _written(folder: Path, classes: int, seed: int) -> str:
    (folder / "linear.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef linear():\n"
        f"    torch.manual_seed({seed})\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, {classes}))\n"
    )
    return f"{folder / 'linear.py'}:linear"


def test_transfer_returns_the_images_of_the_substitute(digits_network: Digits, tmp_path: Path, seed: int) -> None:
    from models.loading import load_network

    network, images, labels = _some(digits_network, 6)
    reference = _written(tmp_path, 10, seed)
    attacked = Transfer(epsilon=0.1, substitute=reference, attack="bim")(network, images, labels)
    expected = build_attack("bim", {"epsilon": 0.1})(
        load_network(reference, image_shape=(3, 16, 16)).network, images, labels
    )
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-6)


def test_transfer_names_its_substitute_by_content(tmp_path: Path) -> None:
    first = Transfer(substitute=_written(tmp_path, 10, 1)).libraries()
    (tmp_path / "other").mkdir()
    second = Transfer(substitute=_written(tmp_path / "other", 10, 2)).libraries()
    assert first["substitute"] != second["substitute"]
    assert "substitute" not in Transfer().libraries()


def test_transfer_loads_a_substitute_again_whose_file_has_changed(digits_network: Digits, tmp_path: Path) -> None:
    network, images, labels = _some(digits_network, 4)

    def attacked(seed: int) -> Tensor:
        attack = Transfer(epsilon=0.1, attack="fgm", substitute=_written(tmp_path, 10, seed))  # at the same place
        return attack(network, images, labels)

    first, second, again = attacked(1), attacked(2), attacked(1)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_transfer_names_bundled_and_torchvision_weights_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    import attacks.transfer
    import models.loading.references

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torchvision keeps what it has downloaded
    weights = tmp_path / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    weights.parent.mkdir(parents=True)
    monkeypatch.setattr(models.loading.references, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(attacks.transfer, "PRETRAINED", tmp_path / "pretrained")
    bundled = tmp_path / "pretrained" / "some" / "weights.safetensors"
    bundled.parent.mkdir(parents=True)
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        torch.save(shufflenet_v2_x0_5().state_dict(), weights)
        bundled.write_bytes(bytes([seed]))
        names = ("torchvision:shufflenet_v2_x0_5:DEFAULT", "pretrained:some")
        found.append([Transfer(substitute=name).libraries()["substitute"] for name in names])
    assert found[0] == found[2]
    assert all(first != second for first, second in zip(found[0], found[1], strict=True))


def test_transfer_key_contains_the_white_box_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    from attacks.pgd import PGD

    plain, wider, other = (
        Transfer(**options).libraries()["attack"] for options in ({}, {"epsilon": 0.05}, {"attack": "bim"})
    )
    assert len({plain, wider, other}) == 3
    assert repr(PGD(epsilon=0.03)) in plain
    monkeypatch.setattr(PGD, "algorithm", PGD.algorithm + 1)
    assert Transfer().libraries()["attack"] != plain


def test_transfer_refuses_mismatched_substitutes(digits_network: Digits, tmp_path: Path) -> None:
    network, images, labels = _some(digits_network, 2)
    with pytest.raises(InputError, match="10 classes, got 4"):
        Transfer(substitute=_written(tmp_path, 4, 0))(network, images, labels)
    for untrained in ("resnet20", "torchvision:shufflenet_v2_x0_5"):
        attack = Transfer(substitute=untrained)
        for use in (attack.libraries, lambda attack=attack: attack(network, images, labels)):
            with pytest.raises(InputError, match="a substitute with weights"):
                use()
    with pytest.raises(UnknownNameError):
        Transfer(attack="nonsense")
    with pytest.raises(InputError, match="itself"):
        Transfer(attack="transfer")
    with pytest.raises(InputError, match="substitute"):
        Transfer(substitute="")


def test_transfer_uses_no_gradient_of_the_network(digits_network: Digits) -> None:
    network, images, labels = _some(digits_network, 4)
    gradient_bytes(network, images[:1])  # measured once for a network
    seen: list[bool] = []
    hook = network.register_forward_hook(lambda module, inputs, logits: seen.append(logits.requires_grad))
    Transfer(attack="fgm", rounds=1, epochs=1)(network, images, labels)
    hook.remove()
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("attack_class", [HopSkipJump, Boundary])
def test_art_has_neither_targets_nor_limits(attack_class: Any) -> None:
    for options in ({"target": 1}, {"total_queries": 100}):
        with pytest.raises(InputError, match="engine 'torch'"):
            attack_class(engine="art", **options)


@pytest.mark.parametrize(
    ("attack_class", "options"),
    [
        (HopSkipJump, {"steps": 0}),
        (HopSkipJump, {"max_queries": 50}),
        (HopSkipJump, {"total_queries": 0}),
        (HopSkipJump, {"engine": "numpy"}),
        (Boundary, {"candidates": 0}),
        (Boundary, {"source_step": 1.0}),
        (Boundary, {"orthogonal_step": 0.0}),
        (Square, {"first_share": 1.5}),
        (ZOO, {"width": 0.0}),
        (ZOO, {"coordinates": 0}),
        (Pixel, {"population": 3}),
        (Pixel, {"pixels": 0}),
        (Transfer, {"rounds": -1}),
    ],
)
def test_options_out_of_range_are_refused(attack_class: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        attack_class(**options)


def test_network_of_these_tests_is_accurate(seed: int) -> None:
    assert _correct(*digits(seed)).double().mean() > 0.8
