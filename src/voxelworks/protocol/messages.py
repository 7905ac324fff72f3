"""Messages between server and worker, and between a worker and its job's process.

Unknown fields are ignored, so that old workers and new servers understand each other (rule R26). Times are
*remaining seconds*, never dates: only the database's clock counts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from voxelworks.errors import FailureClass

PROTOCOL_VERSION = 2
"""2: priority classes with slots of their own, capabilities of workers, memory limits of attempts, drain."""
PROTOCOL_OLDEST = 1
"""Oldest version that this one can work with, on either side."""

JobState = Literal["queued", "claimed", "running", "cancelling", "succeeded", "failed", "cancelled"]
ResultKind = Literal["dataset", "addition", "previews", "artifact", "model", "value"]
"""New dataset; addition to a dataset (mag, property); pictures of a dataset; a file for download; a plain value that
leaves no files."""
Json = dict[str, Any]
PriorityClass = Literal["short", "long"]
"""Workers have slots for each: conversions and exports never wait behind long AI jobs."""
PRIORITY_CLASSES: tuple[PriorityClass, ...] = ("short", "long")


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, extra="ignore")


CURVE_POINTS_MAX = 200


class Curve(Message):
    """How a number changed while a job ran, such as the loss of a training."""

    name: str = Field(max_length=60)
    points: tuple[tuple[int, float], ...] = Field(max_length=CURVE_POINTS_MAX)
    """Step and value, by step."""


PICTURE_BYTES_MAX = 48_000


class Picture(Message):
    """What a job shows of its work while it runs, such as a prediction of a network that is learning."""

    name: str = Field(max_length=200)
    step: int = Field(ge=0)
    width: int = Field(ge=1, le=2000)
    height: int = Field(ge=1, le=2000)
    png: str = Field(max_length=PICTURE_BYTES_MAX)
    """Base64; empty in views, which name the picture alone: its page fetches it."""


class Progress(Message):
    """How far an attempt is. Units never go backwards within a phase."""

    phase: str
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    text: str = ""
    number: int = Field(default=0, ge=0)
    """Which message of its attempt this is, from 1, or 0. One that arrives after a later one is ignored."""
    curves: tuple[Curve, ...] = Field(default=(), max_length=6)
    """All that the job has to show until now."""
    picture: Picture | None = None
    """The latest one."""


PRIORITY_MAX = 24
"""Most steps by which a job goes earlier or later: each counts like an hour of waiting (setting `ageing_s`)."""


WALLTIME_MAX_S = 100 * 365 * 86_400
"""Longest time until a worker must leave that is taken, in seconds: its end still fits a column of the database."""


class NewJob(Message):
    """One of several jobs that are submitted together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None = None
    """Names it inside the group: `job:KEY` in the params of a later one stands for its dataset."""
    workflow: str
    params: Json
    after: tuple[str, ...] = ()
    """Keys of jobs of the group, or ids of other jobs, that it waits for."""
    priority: int = Field(default=0, ge=-PRIORITY_MAX, le=PRIORITY_MAX)
    """As that of a job alone. Above 0 for admins of the organization only."""
    quote_id: str | None = None


class SessionRequest(Message):
    """A worker introduces itself. A session with the same name ends the worker's earlier sessions."""

    name: str
    version: str
    protocol: int = PROTOCOL_VERSION
    workflows: dict[str, int]
    """Workflow name -> highest version that this worker runs."""
    job_slots: int = 1
    """What workers of protocol 1 tell in place of `slots`: jobs of any class side by side."""
    slots: dict[PriorityClass, int] | None = None
    """Jobs of each class that this worker runs side by side."""
    gpus: int = 0
    gpu_names: tuple[Annotated[str, Field(max_length=200)], ...] = Field(default=(), max_length=64)
    """What they are, with their driver."""
    memory_bytes: int | None = None
    """Memory that one job may have at most, in bytes; None: not told."""
    walltime_s: float | None = Field(default=None, ge=0, le=WALLTIME_MAX_S)
    """Time until this worker must leave, in seconds; None: it may stay."""
    isolation: str = ""
    """How its jobs are kept apart from the rest of the machine, in a sentence."""


class SessionAnswer(Message):
    session_id: str
    poll_s: float
    protocol: int = 1
    version: str = ""
    """Of the server."""


class ClaimRequest(Message):
    """A worker asks for a job."""

    free: dict[PriorityClass, int] | None = None
    """Slots that are free at the worker now; None: the server counts what it holds."""
    gpus_free: int | None = None
    """GPUs that no job of the worker has: each that needs one has one for itself. None: not told."""


class Claim(Message):
    """One job, handed to one worker for as long as it renews the lease."""

    job_id: str
    attempt: int
    token: str
    workflow: str
    version: int
    params: Json
    places: dict[str, str]
    """Reference in the params -> place (see `places`)."""
    work_key: str
    """Names the folder of the attempt and of its checkpoints; the same for all attempts of a job."""
    lease_s: float
    renew_s: float
    cancel_grace_s: float
    organization_id: str = ""
    memory_bytes_max: int | None = None
    """Memory limit of this attempt, in bytes; None: as much as the worker gives to one job."""
    walltime_s: int | None = None
    """Time that this attempt may take, in seconds; None: as long as it wants."""
    job_token: str | None = None
    """API token of the submitter, for reading, that ends with the attempt."""
    secrets: dict[str, str] = Field(default={}, repr=False)
    """Reference in the params -> token for what its place leads to. Read anew for each attempt, and never kept."""


class RenewRequest(Message):
    token: str
    progress: Progress | None = None


Order = Literal["continue", "cancel", "drain", "lost"]


class RenewAnswer(Message):
    order: Order
    lease_s: float
    renew_s: float
    log_offset: int = 0


class ArtifactFile(Message):
    """A file that a job leaves for download."""

    name: str
    """What it is called when it is downloaded; on the server it lies under the id of its job."""
    media_type: str
    size_bytes: int = Field(ge=0)
    sha256: str


class SealedResult(Message):
    """What an attempt made: complete, checked, and not yet visible to anyone."""

    kind: ResultKind
    place: str | None = None
    """Place of the dataset that is made or added to, of the pictures or of the file; None for a plain value."""
    layer: str | None = None
    value: Json
    """What the job answers: shown on its page and printed by `--json`."""
    manifest_sha256: str | None = None
    size_bytes: int = 0
    file: ArtifactFile | None = None
    """Of an artifact."""


class SealRequest(Message):
    """Told before `finish`: a success that is sealed before a cancel was recorded still counts (rule R18)."""

    token: str
    result: SealedResult


class FinishRequest(Message):
    token: str
    outcome: Literal["succeeded", "failed", "cancelled", "interrupted"]
    result: SealedResult | None = None
    failure_class: FailureClass | None = None
    code: str | None = None
    """Stable name of the error (`errors.VoxelworksError.code`)."""
    message: str | None = None
    exit_code: int | None = None
    peak_memory_bytes: int | None = None


class FinishAnswer(Message):
    state: JobState
    publish: bool
    """Whether the worker shall publish the sealed result now."""


class DatasetLeaseRequest(Message):
    token: str
    place: str


class DatasetLeaseAnswer(Message):
    held: bool
    lease_s: float
    """Remaining time of the lease, held by this attempt or by another."""


class PublishOrder(Message):
    """A sealed and accepted result whose worker died before it was published."""

    job_id: str
    attempt: int
    token: str
    work_key: str
    result: SealedResult


class CleanupOrder(Message):
    """An ended job whose worker died before it had removed what its attempts left."""

    job_id: str
    attempt: int
    token: str
    workflow: str
    params: Json
    places: dict[str, str]
    work_key: str


class CleanedRequest(Message):
    """Told when nothing is left of an ended job but its published result."""

    token: str


class PublishedRequest(Message):
    token: str
    error: str | None = None
    """Why publication is impossible, such as a target that somebody made by hand meanwhile."""


# Between a worker and the process of its job: one JSON object per line on a pipe.


class ChildProgress(Message):
    type: Literal["progress"] = "progress"
    progress: Progress


class ChildSealed(Message):
    type: Literal["sealed"] = "sealed"
    result: SealedResult


class ChildFailed(Message):
    type: Literal["failed"] = "failed"
    outcome: Literal["failed", "cancelled", "interrupted"]
    failure_class: FailureClass
    code: str
    message: str


ChildMessage = ChildProgress | ChildSealed | ChildFailed
