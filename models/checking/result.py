"""The result of one check."""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CheckResult", "Status"]

Status = Literal["pass", "warning", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check of a network or its images.

    Args:
        name: of the check.
        status: "pass", "warning" for what may be intended, or "fail" for what Plumbline cannot use.
        message: what was found; for a warning or a failure, with the remedy.
        values: the measured values, for programs; JSON values.
    """

    name: str
    status: Status
    message: str
    values: dict[str, Any] = field(default_factory=dict)
