"""Conformance of every attack in the attacks folder; new files are included."""

import copy
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import Attack, build_attack
from attacks.common import base
from models.batching import memory_budget
from models.errors import AttackError, InputError
from models.registry import ATTACKS
from tests.attacks.digits import Digits, digits
from tests.conftest import SEED

pytestmark = pytest.mark.slow

# Shorter settings for attacks that are slow with their defaults; others run with their defaults.
QUICK: dict[str, dict[str, Any]] = {
    "apgd": {"steps": 20},
    "art": {"max_iter": 10},
    "bim": {"steps": 20},
    "pgd": {"steps": 20},
    "autoattack": {"version": "custom", "attacks_to_run": ["apgd-ce"]},
    "carlini_wagner": {"search_steps": 2, "initial_const": 1.0},
    "fab": {"steps": 5},
    "spatial_transformation": {"angles": 7, "shifts": 3},
    "universal_perturbation": {"epsilon": 0.4, "steps": 20},  # one for all needs more room
    "boundary": {"steps": 50},
    "hop_skip_jump": {"steps": 2},
    "pixel": {"pixels": 60, "population": 20, "steps": 30},
    "square": {"epsilon": 0.2, "steps": 200},  # a random search: at less, it fails with some networks
    "transfer": {"epsilon": 0.3, "attack": "fgm"},  # few directions are shared with a network fitted on 16 images
    "zoo": {"steps": 2, "coordinates": 128, "learning_rate": 0.2},
}
EPSILON = 0.1  # enough to fool a small network on digits of 16 grey levels

# Attacks whose images need not be near in every value: what their threat model says of the easy case instead.
ALLOWED: dict[str, Callable[[Tensor, Tensor], bool]] = {
    # A few values may change as far as they like.
    "jsma": lambda image, attacked: int((image != attacked).sum()) <= 4,
    "zoo": lambda image, attacked: float((attacked - image).abs().max()) < 0.21,  # one of its quick, large steps
    "pixel": lambda image, attacked: int((image != attacked).any(dim=1).sum()) <= 60,
    # Turning, shifting and black from outside make no channel brighter than it was anywhere, and each one darker.
    "spatial_transformation": lambda image, attacked: bool(
        (attacked.amax((2, 3)) <= image.amax((2, 3)) + 1e-6).all()
        and (attacked.mean((2, 3)) < image.mean((2, 3)) + 0.05).all()
    ),
}

# Attacks that make no gradient of the network: one that has none is theirs to attack.
WITHOUT_GRADIENT = {"boundary", "hop_skip_jump", "pixel", "spatial_transformation", "square", "transfer", "zoo"}

attack_names = pytest.mark.parametrize("name", ATTACKS.names())


def _options(name: str) -> set[str]:
    return set(inspect.signature(ATTACKS.load(name).__init__).parameters) - {"self"}


def _has(name: str, option: str) -> bool:
    return option in _options(name)


def _attack(name: str, **options: Any) -> Attack:
    return build_attack(name, QUICK.get(name, {}) | options, where_accepted={"epsilon": EPSILON})


@pytest.fixture
def made() -> Digits:
    found = digits(SEED)
    return Digits(copy.deepcopy(found.network), found.images[:16].clone(), found.labels[:16].clone())


@functools.cache
def _attacked(name: str) -> Tensor:
    """The images of `made` after the attack."""
    found = digits(SEED)
    return _attack(name)(copy.deepcopy(found.network), found.images[:16].clone(), found.labels[:16].clone())


def _correct(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(1) == labels


def test_the_attacks_of_the_paper_are_there() -> None:
    gradient = {"fgm", "bim", "pgd", "apgd", "deepfool", "carlini_wagner", "jsma", "fab", "autoattack"}
    assert gradient | {"universal_perturbation", "spatial_transformation"} <= set(ATTACKS.names())


@attack_names
def test_images_stay_valid_and_inside_the_budget(name: str, made: Digits) -> None:
    before, attack, attacked = made.images, _attack(name), _attacked(name)
    assert attacked.shape == before.shape
    assert attacked.dtype == torch.float32
    assert attacked.device == before.device
    assert torch.isfinite(attacked).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not torch.equal(attacked, before)
    assert not attacked.requires_grad
    if attack.epsilon is not None:
        order = np.inf if attack.norm == "linf" else 2
        sizes = np.linalg.norm((attacked.double() - before.double()).flatten(1).numpy(), ord=order, axis=1)
        assert sizes.max() <= attack.epsilon + 1e-6


@attack_names
def test_accuracy_falls(name: str, made: Digits) -> None:
    natural = _correct(*made).float().mean()
    attacked = _correct(made.network, _attacked(name), made.labels).float().mean()
    assert natural >= 0.7, "the network of this test is not accurate"
    assert attacked <= natural - 0.3


@attack_names
def test_memory_decides_sizes_of_batches_and_not_results(
    name: str, made: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = made.images[:5], made.labels[:5]
    whole = _attack(name)(made.network, images, labels)
    monkeypatch.setattr(base, "gradient_bytes", lambda *_: memory_budget() // 3)  # three images at once
    sizes = []
    made.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parts = _attack(name)(made.network, images, labels)
    assert max(sizes) == 3
    # Rounding may move an image on the boundary, and grows while `transfer` trains its substitute.
    same = (whole - parts).abs().mean((1, 2, 3)) < (1e-1 if name == "transfer" else 1e-3)
    assert same.sum() >= len(images) - 1


@attack_names
def test_state_of_the_caller_does_not_matter_and_is_restored(name: str, made: Digits, seed: int) -> None:
    """The global random state, and inference mode; an attack without gradients accepts NaN gradients as well."""
    before, first = made.images.clone(), _attacked(name)
    network = _NanGradient(made.network) if name in WITHOUT_GRADIENT else made.network
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    with torch.inference_mode():
        images = made.images.clone()
        again = _attack(name)(network, images, made.labels.clone())
    assert torch.equal(first, again)  # the seeds of the attack are equal
    assert torch.equal(images, before)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


@attack_names
def test_state_of_the_network_is_restored(name: str, made: Digits) -> None:
    network = made.network
    seen: list[bool] = []
    hook = network.register_forward_hook(lambda module, *_: seen.append(module.training))
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.full_like(parameters[1], 0.5)
    grad = parameters[1].grad
    network.train()
    batch_norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    batch_norm.eval()  # one module that is in another mode than the rest
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    hooks = [_hook_count(module) for module in network.modules()]

    _attack(name)(network, made.images[:8], made.labels[:8])

    assert seen, "the attack never called the network through its own call"
    assert not any(seen), "the network ran in training mode"
    assert [module.training for module in network.modules()] == modes
    assert [_hook_count(module) for module in network.modules()] == hooks
    assert [p.requires_grad for p in network.parameters()] == [False] + [True] * (len(parameters) - 1)
    assert parameters[1].grad is grad
    assert (grad == 0.5).all()
    assert all(p.grad is None for p in parameters[2:])
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    hook.remove()


@attack_names
def test_lp_bounded_is_declared(name: str) -> None:
    attack = _attack(name)
    assert attack.lp_bounded is (name not in {"jsma", "pixel", "spatial_transformation"})
    assert attack.lp_bounded or attack.epsilon is None


@attack_names
def test_finds_the_easy_case(name: str, seed: int) -> None:
    """An image beside the decision boundary of a linear classifier: whatever attack fails here finds nothing.

    What it finds is near, as the attack's threat model has it.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(4, 3 * 8 * 8, generator=generator)
    image = 0.3 + 0.4 * torch.rand(1, 3, 8, 8, generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with torch.no_grad():
        network[1].weight.copy_(weights / 10)
        # All four logits of this image are 0, but for a lead of 0.01 of the first: the boundary is that near.
        network[1].bias.copy_(-(image.flatten(1) @ network[1].weight.T)[0] + torch.tensor([0.01, 0, 0, 0]))
    label = torch.zeros(1, dtype=torch.int64)
    assert _correct(network, image, label).all()
    options: dict[str, Any] = {"epsilon": 0.03} if _has(name, "epsilon") else {}
    if name == "transfer":  # fitted on one image, one substitute in forty has no useful gradient
        options |= {"rounds": 6}
        tried = [_attack(name, **options, seed=number)(network, image, label) for number in range(4)]
    else:
        tried = [_attack(name, **options)(network, image, label)]
    adversarial = [attacked for attacked in tried if not _correct(network, attacked, label).any()]
    assert adversarial
    allowed = ALLOWED.get(name, lambda image, attacked: float((attacked - image).abs().max()) < 0.05)
    assert all(allowed(image, attacked) for attacked in adversarial)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if _has(name, "target")])
def test_targeted_attacks_reach_their_targets(name: str, seed: int) -> None:
    found = digits(seed)
    network, (images, labels) = copy.deepcopy(found.network), (part[:24].clone() for part in found[1:])
    with torch.no_grad():
        target = int(network(images).argmax(1).mode().values)  # one that the batch has: where some attacks start
    others = labels != target

    def taken_for_it(attacked: Tensor) -> float:
        """Expected number of other images that are predicted as the target."""
        with torch.no_grad():
            return float(network(attacked).double().softmax(1)[others, target].sum())

    room = {"epsilon": 0.25} if _has(name, "epsilon") else {}
    aimed, free = (_attack(name, target=aim, **room)(network, images, labels) for aim in (target, None))
    assert taken_for_it(aimed) > max(taken_for_it(free), taken_for_it(images))


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if _has(name, "target")])
def test_invalid_targets_are_refused(name: str, made: Digits) -> None:
    for target in ("best", -1, True, 1.0, [3]):
        with pytest.raises(InputError, match="expected target"):
            _attack(name, target=target)
    with pytest.raises(InputError, match=r"expected target in 0…9"):
        _attack(name, target=10)(*made)


class _NanLogits(nn.Module):
    """The network, with NaN logits for bright images."""

    def __init__(self, network: nn.Module, limit: float) -> None:
        super().__init__()
        self.network, self.limit = network, limit

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return torch.where(images.mean((1, 2, 3))[:, None] >= self.limit, torch.nan, logits)


class _NanGradient(nn.Module):
    """The network, with a root at 0 added to all logits: they are as they were, their gradients 0 · ∞ = NaN."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + (0 * images).flatten(1).sum(1).sqrt()[:, None]


@attack_names
def test_nan_logits_are_an_error(name: str, made: Digits) -> None:
    bright = float(made.images.mean((1, 2, 3)).median())
    with pytest.raises(AttackError, match=r"expected finite .* got NaN or infinity for \d+ of \d+ images"):
        _attack(name)(_NanLogits(made.network, bright), made.images, made.labels)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if name not in WITHOUT_GRADIENT])
def test_nan_gradients_are_an_error(name: str, made: Digits) -> None:
    with pytest.raises(AttackError, match=r"expected finite .*gradients from the network, got NaN"):
        _attack(name)(_NanGradient(made.network), made.images, made.labels)


@attack_names
def test_invalid_images_labels_and_networks_are_refused(name: str, made: Digits) -> None:
    attack, (network, images, labels) = _attack(name), made
    nan = images.clone()
    nan[0, 0, 0, 0] = float("nan")
    for wrong in (images * 255, images - 0.5, nan, images.double(), images[0], images[:0], images.numpy()):
        with pytest.raises(InputError, match="expected"):
            attack(network, wrong, labels)  # type: ignore[arg-type]
    for wrong_labels in (labels[:-1], labels.int(), labels + 10, labels - 10, labels[:, None], labels.tolist()):
        with pytest.raises(InputError, match="expected labels"):
            attack(network, images, wrong_labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="logits"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)), images, labels)
    with pytest.raises(InputError, match="images of shape"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), images, labels)


@attack_names
def test_refuses_options_out_of_range(name: str) -> None:
    with pytest.raises(InputError, match="batch_size"):
        _attack(name, batch_size=0)
    with pytest.raises(InputError, match="seed"):
        _attack(name, seed=-1)
    with pytest.raises(InputError, match="seed"):
        _attack(name, seed=2**63)
    with pytest.raises(InputError, match="no option nonsense"):
        _attack(name, nonsense=1)
    if _has(name, "epsilon"):
        for epsilon in (0.0, -0.1, float("nan"), float("inf"), 8.0):
            with pytest.raises(InputError, match="epsilon"):
                _attack(name, epsilon=epsilon)


@attack_names
def test_parameters_rebuild_the_attack(name: str) -> None:
    attack = _attack(name, seed=11)
    parameters = json.loads(json.dumps(attack.parameters()))
    again = type(attack)(**parameters)
    assert again.parameters() == attack.parameters() == parameters
    assert repr(again) == repr(attack)
    assert "seed=11" in repr(attack)
    assert attack.with_seed(12).parameters() == parameters | {"seed": 12}
    assert attack.parameters()["seed"] == 11
    assert attack.name == name
    assert all(isinstance(version, str) for version in attack.libraries().values())


@attack_names
def test_options_are_keywords_with_defaults(name: str) -> None:
    options = inspect.signature(ATTACKS.load(name).__init__).parameters.values()
    for option in list(options)[1:]:
        if option.kind is inspect.Parameter.VAR_KEYWORD:  # options of a library, which has defaults for them
            continue
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
    assert {"batch_size", "seed"} <= {option.name for option in options}


@attack_names
def test_is_documented(name: str) -> None:
    attack_class = ATTACKS.load(name)
    assert ATTACKS.summaries()[name]
    assert inspect.getdoc(attack_class)
    assert issubclass(attack_class, Attack)


def _hook_count(module: nn.Module) -> int:
    return sum(
        len(getattr(module, kind))
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )
