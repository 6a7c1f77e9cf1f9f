"""Checks of a network and its images before anything expensive."""

from models.checking.accuracy import (
    AccuracyAgainstChance,
    accuracy_against_chance,
    check_accuracy,
    check_normalization,
    right_predictions,
)
from models.checking.branches import check_branches
from models.checking.input import check_input
from models.checking.network import check_network, require_usable
from models.checking.result import CheckResult, Status

__all__ = [
    "AccuracyAgainstChance",
    "CheckResult",
    "Status",
    "accuracy_against_chance",
    "check_accuracy",
    "check_branches",
    "check_input",
    "check_network",
    "check_normalization",
    "require_usable",
    "right_predictions",
]
