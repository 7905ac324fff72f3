"""Where the time of a job went: the spans between its events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from voxelworks.protocol.messages import JobState
from voxelworks.protocol.views import EventView, JobDetail

SpanKind = Literal["waiting", "pause", "starting", "running", "stopping", "publishing"]
SPAN_WORDS: dict[SpanKind, str] = {
    "waiting": "Waiting", "pause": "Waiting for the next attempt", "starting": "Starting", "running": "Running",
    "stopping": "Stopping", "publishing": "Publishing the result",
}  # fmt: skip
_KINDS: dict[JobState, SpanKind] = {
    "queued": "waiting",
    "claimed": "starting",
    "running": "running",
    "cancelling": "stopping",
}


@dataclass(frozen=True)
class Span:
    """A part of a job's life."""

    kind: SpanKind
    attempt: int | None
    start_ms: int
    end_ms: int | None
    """None: it goes on."""
    left: int
    """Where it begins and how long it is, in percent of all until now. While time goes on they are steps of 5."""
    width: int


def timeline(detail: JobDetail) -> tuple[Span, ...]:
    """Cut the life of a job where its state changed, and where its result was published. Oldest first."""
    job = detail.job
    cuts = list(_cuts(detail.events))
    last_ms = _last_ms(detail)
    ends = [*(start_ms for _, _, start_ms in cuts[1:]), last_ms]
    begin_ms = cuts[0][2]
    whole_ms = max(1, (job.as_of_ms if last_ms is None else last_ms) - begin_ms)
    # A page is sent this part anew when it differs: not for every second.
    step = 5 if last_ms is None else 1
    spans = []
    for (kind, attempt, start_ms), end_ms in zip(cuts, ends, strict=True):
        if kind is None or (kind == "publishing" and job.publication == "none"):
            continue
        stop_ms = job.as_of_ms if end_ms is None else end_ms
        left, width = (100 * part / whole_ms for part in (start_ms - begin_ms, max(0, stop_ms - start_ms)))
        spans.append(
            Span(kind, attempt, start_ms, end_ms, round(left / step) * step, round(width / step) * step)
        )
    return tuple(spans)


def _last_ms(detail: JobDetail) -> int | None:
    """Say when the last thing happened to a job; None if something still will."""
    job = detail.job
    if not job.is_ended or job.publication == "pending":
        return None
    return job.ended_ms if job.publication == "none" else job.published_ms or detail.events[-1].at_ms


def _cuts(events: Iterable[EventView]) -> Iterable[tuple[SpanKind | None, int | None, int]]:
    """Give what begins with each change of state; None: nothing more."""
    for event in events:
        if event.from_state == event.to_state:
            continue
        kind = _KINDS.get(event.to_state)
        if event.to_state == "queued" and event.from_state is not None:
            kind = "pause"
        elif event.to_state == "succeeded":
            kind = "publishing"
        yield kind, event.attempt if kind != "waiting" else None, event.at_ms
