"""What a server shows of jobs, workers and datasets: the models of its JSON API and of its pages.

Dates are integer milliseconds since 1970 in UTC, by the clock of the database. Durations are seconds.
"""

from __future__ import annotations

from typing import Literal

from voxelworks.errors import FailureClass
from voxelworks.protocol.messages import JobState, Json, Message, Progress, SealedResult

JOB_STATES: tuple[JobState, ...] = (
    "queued", "claimed", "running", "cancelling", "succeeded", "failed", "cancelled",
)  # fmt: skip
TERMINAL_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})

Publication = Literal["none", "pending", "published", "failed"]
"""Whether the files of a result can be seen: `none` if it has none (or not yet), `failed` if the target was taken."""
AttemptOutcome = Literal["succeeded", "failed", "cancelled", "interrupted", "lost"]


class EtaView(Message):
    """Remaining time of the current phase, as a range."""

    low_s: float
    high_s: float


class WaitView(Message):
    """Why a queued job does not run yet."""

    ahead: int
    """Jobs that are given away before it."""
    reason: str
    """One sentence for the page, such as `2 jobs are ahead`."""


class JobView(Message):
    """A job, as lists show it."""

    id: str
    owner: str
    workflow: str
    version: int
    params: Json
    """As they were checked: defaults filled in."""
    state: JobState
    priority: int
    attempt: int
    """Number of the current or last attempt; 0 before the first."""
    created_ms: int
    available_ms: int
    """Not given away before: later than `created_ms` after a failed attempt."""
    started_ms: int | None
    """Start of the first attempt's work."""
    ended_ms: int | None
    updated_ms: int
    """Last change of state or progress."""
    as_of_ms: int
    """When this view was taken, by the same clock."""
    cancel_requested_ms: int | None
    failure_class: FailureClass | None
    code: str | None
    message: str | None
    """Why the job failed or was cancelled; for a queued one, why its last attempt failed."""
    result: SealedResult | None
    publication: Publication
    publish_error: str | None
    published_ms: int | None
    retried_from: str | None
    """Job that this one repeats."""
    progress: Progress | None
    """Progress of the current attempt."""
    eta: EtaView | None
    """Hidden below 3 % of a phase."""
    worker: str | None
    """Name of the worker that holds the job."""
    heard_s: float | None
    """Seconds since the worker was last heard from, while one holds the job."""
    is_silent: bool
    """The worker was not heard from for longer than the setting `silent_after_s`."""
    wait: WaitView | None
    """Only in the view of one queued job; None in lists."""

    @property
    def is_ended(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def can_cancel(self) -> bool:
        return self.state in ("queued", "claimed", "running")

    @property
    def can_retry(self) -> bool:
        return self.state in ("failed", "cancelled") or self.publication == "failed"


class AttemptView(Message):
    """One try of a job by one worker."""

    number: int
    worker: str
    claimed_ms: int
    started_ms: int | None
    renewed_ms: int
    ended_ms: int | None
    outcome: AttemptOutcome | None
    failure_class: FailureClass | None
    code: str | None
    message: str | None
    exit_code: int | None
    peak_memory_bytes: int | None
    log_bytes: int
    """Bytes of log that can be read."""


class EventView(Message):
    """A change of a job: who did it, and why."""

    id: int
    job_id: str
    at_ms: int
    who: str
    """`user:NAME`, `worker:NAME` or `server`."""
    attempt: int | None
    from_state: JobState | None
    """None for the submission."""
    to_state: JobState
    """Equal to `from_state` for notes that change no state, such as a publication."""
    why: str


class JobDetail(Message):
    """A job with its history, as its page shows it."""

    job: JobView
    attempts: tuple[AttemptView, ...]
    """Oldest first."""
    events: tuple[EventView, ...]
    """Oldest first."""
    retries: tuple[str, ...]
    """Ids of the jobs that repeat this one."""


class JobPage(Message):
    """A part of the list of jobs, newest first."""

    jobs: tuple[JobView, ...]
    next_after: str | None
    """Give it as `after` for the next page; None on the last one."""
    counts: dict[JobState, int]
    """Jobs in each state, under the same filters except that of the state."""


class LogChunk(Message):
    """A part of an attempt's log."""

    offset: int
    """Of the first byte of `text` in the log."""
    text: str
    """Bytes that are no UTF-8 are shown as U+FFFD."""
    next_offset: int
    """Where to go on reading."""
    size: int
    """Bytes of log that can be read now."""
    is_complete: bool
    """No more bytes will come."""


class WorkerView(Message):
    """A worker session that was not replaced."""

    session_id: str
    name: str
    version: str
    workflows: dict[str, int]
    job_slots: int
    opened_ms: int
    heard_s: float
    is_online: bool
    job_ids: tuple[str, ...]
    """Jobs that it holds."""


class LayerSummary(Message):
    """A layer, as lists show it."""

    name: str
    category: Literal["color", "segmentation"]
    dtype: str
    channel_count: int
    box: str
    """Mag 1, `x,y,z,width,height,depth`."""
    mags: tuple[str, ...]
    """Finest first."""
    largest_segment_id: int | None = None


class DatasetSummary(Message):
    """What the catalog remembers of a dataset's metadata."""

    voxel_size: str | None
    """Nanometres, `x,y,z`."""
    layers: tuple[LayerSummary, ...]


class DatasetView(Message):
    """A dataset of the catalog."""

    id: str
    name: str
    place: str
    summary: DatasetSummary
    created_ms: int
    updated_ms: int
    made_by_job: str | None
