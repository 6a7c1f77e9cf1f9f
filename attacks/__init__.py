"""How images are attacked. The only package that imports ART and AutoAttack, and those only when an attack runs."""

from attacks.common.base import Attack, build_attack, parse_epsilon
from attacks.generation.generate import AttackedSet, generate

__all__ = ["Attack", "AttackedSet", "build_attack", "generate", "parse_epsilon"]
