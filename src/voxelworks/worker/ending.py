"""How an attempt ended, and if it failed, whose fault it was (rule R13)."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from voxelworks.errors import BlockKilled, Cancelled, FailureClass, Interrupted, ResourcesExceeded, TimedOut
from voxelworks.protocol.messages import ChildFailed, FinishRequest, SealedResult

StopReason = Literal["interrupt", "walltime", "cancel", "memory", "lost"]
"""Why a worker stops a job's process, weakest first: a stronger reason replaces a weaker one."""


@dataclass(frozen=True)
class Ending:
    """What is known of a job's process after it has ended."""

    exit_code: int
    """Negative for a signal."""
    sealed: SealedResult | None = None
    failed: ChildFailed | None = None
    """What the process itself told."""
    stopped: StopReason | None = None
    """What the worker did to it."""
    was_oom_killed: bool = False
    """The system has just killed something for want of memory."""
    peak_memory_bytes: int = 0
    memory_bytes_max: int = 0
    walltime_s: int | None = None
    last_lines: str = ""
    """End of the log."""

    def report(self, token: str) -> FinishRequest:
        """Judge it, for the server."""
        if self.sealed is not None:
            report = FinishRequest(token=token, outcome="succeeded", result=self.sealed)
        else:
            report = self._unfinished(token)
        facts = {"exit_code": self.exit_code, "peak_memory_bytes": self.peak_memory_bytes or None}
        return report.model_copy(update=facts)

    def _unfinished(self, token: str) -> FinishRequest:
        if self.stopped == "cancel":
            return cancelled(token)
        if self.stopped == "interrupt":
            return FinishRequest(
                token=token, outcome="interrupted", failure_class="infrastructure", code=Interrupted.code,
                message="the worker was stopped; the job goes on elsewhere",
            )  # fmt: skip
        if self.stopped is None and self.failed is not None:
            return FinishRequest(token=token, **self._told(self.failed).model_dump(exclude={"type"}))
        failure_class, code, message = self._crash()
        said = f". Its last log lines:\n{self.last_lines}" if self.last_lines else "; it had printed nothing"
        return FinishRequest(
            token=token, outcome="failed", failure_class=failure_class, code=code, message=message + said
        )

    def _told(self, failed: ChildFailed) -> ChildFailed:
        """Give the reason that the process told; it cannot know who has killed the processes of its blocks."""
        if failed.code == BlockKilled.code and self.was_oom_killed:
            message = f"{failed.message}: the machine ran out of memory"
            facts = {"failure_class": "resources", "code": ResourcesExceeded.code, "message": message}
            return failed.model_copy(update=facts)
        return failed

    def _crash(self) -> tuple[FailureClass, str, str]:
        if self.stopped == "memory":
            used, allowed = _gib(self.peak_memory_bytes), _gib(self.memory_bytes_max)
            advice = "give it fewer slots or smaller shards, or raise VOXELWORKS_MEMORY_BYTES_MAX"
            message = f"the job used {used} of memory, {allowed} are allowed; {advice}"
            return "resources", ResourcesExceeded.code, message
        if self.stopped == "walltime":
            message = (
                f"the job ran for {self.walltime_s} s, which is all that its workflow allows, and was stopped"
            )
            return "timed_out", TimedOut.code, f"{message}; give it less data or more slots"
        if self.exit_code == -signal.SIGKILL and self.was_oom_killed:
            message = "the system killed the job: the machine ran out of memory"
            return "resources", ResourcesExceeded.code, message
        if self.exit_code in (-signal.SIGKILL, -signal.SIGTERM):
            return "infrastructure", "killed", "the job's process was killed from outside"
        by_signal = self.exit_code < 0
        how = (
            f"by {signal.Signals(-self.exit_code).name}"
            if by_signal
            else f"with exit status {self.exit_code}"
        )
        return "program_error", "crashed", f"the job's process ended {how} and left no result"


def cancelled(token: str) -> FinishRequest:
    """Report an attempt that ended because somebody cancelled its job."""
    return FinishRequest(
        token=token,
        outcome="cancelled",
        failure_class="cancelled",
        code=Cancelled.code,
        message="the job was cancelled",
    )


def not_started(token: str, error: OSError) -> FinishRequest:
    """Report an attempt whose process this machine could not start."""
    return FinishRequest(
        token=token, outcome="failed", failure_class="infrastructure", code="not-started",
        message=f"the job's process could not be started: {error}",
    )  # fmt: skip


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
