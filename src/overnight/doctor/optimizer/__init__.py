"""What a LAMB or a LARS must do, measured on anyone's class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from overnight.doctor.optimizer.blocks import BLOCKS
from overnight.doctor.optimizer.host_sync import HOST_SYNC
from overnight.doctor.optimizer.kept import GRADIENT, SKIPPED
from overnight.doctor.optimizer.length import LENGTH, WITHOUT_DECAY
from overnight.doctor.optimizer.modes import MODES
from overnight.doctor.optimizer.outcome import Check, Outcome, Status
from overnight.doctor.optimizer.precision import BF16, INDEXING, LARGE
from overnight.doctor.optimizer.rate_drop import RATE_DROP
from overnight.doctor.optimizer.resume import RESUME, RESUME_BF16
from overnight.doctor.optimizer.scale import LOSS_SCALE, WEIGHT_SCALE
from overnight.doctor.optimizer.subject import Family, Subject, find_subject
from overnight.doctor.optimizer.zeros import ZEROS

__all__ = ["CHECKS", "Conformance", "Finding", "Subject", "conformance", "find_subject"]

CHECKS: tuple[Check, ...] = (
    *(LENGTH, WITHOUT_DECAY, LOSS_SCALE, WEIGHT_SCALE, ZEROS, RATE_DROP),
    *(MODES, HOST_SYNC, BF16, LARGE, INDEXING),
    *(GRADIENT, SKIPPED, RESUME, RESUME_BF16, BLOCKS),
)
"""In the order of the table."""


@dataclass(frozen=True)
class Finding:
    """One row of the table; see ``Check`` and ``Outcome``."""

    name: str
    rule: str
    status: Status
    measured: str
    error: float | None


@dataclass(frozen=True)
class Conformance:
    """What was found of one optimizer.

    Args:
        optimizer: as the user named it.
        family: ``lamb`` or ``lars``.
        given: arguments of the user.
        chosen: arguments that all checks set, beside the rate and the weight decay, which they vary.
        torch: its version.
        findings: one for each check.
    """

    optimizer: str
    family: Family
    given: Mapping[str, Any]
    chosen: Mapping[str, Any]
    torch: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(finding.name for finding in self.findings if finding.status == "fail")


def conformance(subject: Subject, checks: Sequence[Check] = CHECKS) -> Conformance:
    """Run the checks, in a few seconds. An error inside the optimizer fails the check that met it."""
    findings = []
    for check in checks:
        try:
            found = check.run(subject)
        except Exception as error:
            message = str(error).strip().split("\n")[0][:160]
            found = Outcome("fail", f"raises {type(error).__name__}: {message}".rstrip(": "))
        findings.append(Finding(check.name, check.rule[subject.family], found.status, found.measured, found.error))
    return Conformance(
        subject.name, subject.family, dict(subject.given), subject.chosen(), torch.__version__, tuple(findings)
    )
