"""Whether a failed attempt is tried again, and when (R13, R14, R15)."""

from __future__ import annotations

from dataclasses import dataclass

from voxelworks.errors import FailureClass
from voxelworks.settings import Settings


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without a result."""

    failure_class: FailureClass
    code: str
    message: str
    is_lost_lease: bool = False
    waits: bool = True
    """Whether the next attempt waits. It need not when the worker has just started anew."""


@dataclass(frozen=True)
class Failures:
    """How often the attempts of a job have failed."""

    infrastructure: int = 0
    resources: int = 0
    lost_leases: int = 0

    def after(self, failure: Failure) -> Failures:
        return Failures(
            self.infrastructure + (failure.failure_class == "infrastructure"),
            self.resources + (failure.failure_class == "resources"),
            self.lost_leases + failure.is_lost_lease,
        )


def retry_number(failure: Failure, failures: Failures, settings: Settings) -> int | None:
    """Tell which retry of its class comes next, counted from 1; None if there is none left.

    Parameters
    ----------
    failures
        Counts that include `failure`.
    """
    if failures.lost_leases >= settings.lost_leases_max and failure.is_lost_lease:
        return None
    if (
        failure.failure_class == "infrastructure"
        and failures.infrastructure <= settings.retries_infrastructure
    ):
        return failures.infrastructure
    if failure.failure_class == "resources" and failures.resources <= settings.retries_resources:
        return failures.resources
    return None


def backoff_s(retry: int, fraction: float, settings: Settings) -> float:
    """Choose the wait before a retry: full jitter under a bound that doubles with every retry.

    Parameters
    ----------
    retry
        Number of the retry, from 1.
    fraction
        Random number in [0, 1).

    References
    ----------
    Brooker, M. (2015). Exponential backoff and jitter. AWS Architecture Blog.
    """
    doublings = min(retry - 1, 60)
    return fraction * min(settings.backoff_cap_s, settings.backoff_base_s * 2.0**doublings)


def final_message(failure: Failure, failures: Failures, settings: Settings) -> str:
    """Say why a job is given up."""
    if failure.is_lost_lease and failures.lost_leases >= settings.lost_leases_max:
        return (
            f"the job lost its worker {failures.lost_leases} times and is not tried again; "
            f"look whether it brings the worker down ({failure.message})"
        )
    tries = {"infrastructure": failures.infrastructure, "resources": failures.resources}.get(
        failure.failure_class, 0
    )
    return f"{failure.message} (failed {tries} times)" if tries > 1 else failure.message


def is_our_fault(failure: Failure | None) -> bool:
    """Whether nobody but the platform is to blame: what had expired of the charge is then given anew."""
    return failure is not None and failure.failure_class in ("infrastructure", "program_error")
