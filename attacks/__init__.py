"""Attacks on image classifiers. No other package imports ART or AutoAttack, and this one only when an attack runs."""

from attacks.common.base import Attack
from attacks.common.building import build_attack, parse_epsilon
from attacks.generation.attacked_set import AttackedSet
from attacks.generation.generate import generate

__all__ = ["Attack", "AttackedSet", "build_attack", "generate", "parse_epsilon"]
