"""How images are attacked. The only package that imports ART and AutoAttack, and those only when an attack runs."""

from attacks.common.base import Attack
from attacks.common.building import build_attack, parse_epsilon
from attacks.generation.attacked_set import AttackedSet
from attacks.generation.generate import generate

__all__ = ["Attack", "AttackedSet", "build_attack", "generate", "parse_epsilon"]
