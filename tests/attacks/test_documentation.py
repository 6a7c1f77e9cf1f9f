"""The example of docs/adding-an-attack.md runs."""

import re
from pathlib import Path
from typing import Any

import torch

from attacks import Attack
from models.registry import ATTACKS
from tests.attacks.digits import Digits

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-attack.md"


def test_the_example_is_an_attack(digits_network: Digits) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "attacks.salt"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    (name,) = namespace["__all__"]
    attack = namespace[name](epsilon=0.1, seed=2)
    assert isinstance(attack, Attack)
    assert attack.name == "salt"
    assert attack.parameters() == {"epsilon": 0.1, "draws": 10, "batch_size": 128, "seed": 2}
    network, images, labels = digits_network
    attacked = attack(network, images, labels)
    in_small_batches = namespace[name](epsilon=0.1, seed=2, batch_size=9)(network, images, labels)
    # Rounding may decide otherwise about an image that lies on a decision boundary, hence not every single one.
    assert (attacked == in_small_batches).flatten(1).all(1).float().mean() > 0.95
    strong = namespace[name](epsilon=0.3, seed=2)(network, images, labels)  # at 0.1 it fools hardly any
    with torch.no_grad():
        assert (network(strong).argmax(1) == labels).sum() < (network(images).argmax(1) == labels).sum()


def test_every_file_that_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:attacks|tests)/[\w/]+\.py)`", text)) - {"attacks/salt.py"}
    assert named
    assert all((PAGE.parents[1] / path).is_file() for path in named)
    assert "salt" not in ATTACKS.names()
