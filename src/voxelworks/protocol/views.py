"""What a server shows of jobs, workers and datasets: the models of its JSON API and of its pages.

Dates are integer milliseconds since 1970 in UTC, by the clock of the database. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from voxelworks.errors import FailureClass
from voxelworks.protocol.credits import PriceView, QuoteView
from voxelworks.protocol.messages import JobState, Json, Message, PriorityClass, Progress, SealedResult
from voxelworks.protocol.models import ModelFacts

JOB_STATES: tuple[JobState, ...] = (
    "queued", "claimed", "running", "cancelling", "succeeded", "failed", "cancelled",
)  # fmt: skip
TERMINAL_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})
UNENDED_STATES: tuple[JobState, ...] = tuple(state for state in JOB_STATES if state not in TERMINAL_STATES)

Publication = Literal["none", "pending", "published", "failed"]
"""Whether the files of a result can be seen: `none` if it has none (or not yet), `failed` if the target was taken."""
AttemptOutcome = Literal["succeeded", "failed", "cancelled", "interrupted", "lost"]


class EtaView(Message):
    """Remaining time of the current phase, as a range."""

    low_s: float
    high_s: float


WaitCode = Literal[
    "after", "paused", "nobody", "backoff", "organization", "user", "workflow", "queue", "next"
]
"""Other jobs must end first; the queue is paused; no worker can run it; its last attempt failed just now; its
organization, user or workflow runs as many jobs as it may; others are ahead; it is next in line."""


class WaitView(Message):
    """Why a queued job does not run yet."""

    ahead: int | None
    """Jobs that are given away before it. None while more than 1,000 are queued: counting takes too
    long. Only who looks at the job alone is told even then."""
    reason: str
    """One sentence for the page, such as `2 jobs are ahead`."""
    code: WaitCode = "queue"
    """The same, for programs."""

    @property
    def place(self) -> int | None:
        """Place in the queue, from 1; None if it was not counted, or while it waits for other jobs, and is in none."""
        return None if self.ahead is None or self.code == "after" else self.ahead + 1


class JobView(Message):
    """A job, as lists show it."""

    id: str
    owner: str
    """Name of the user, for people."""
    user_id: str
    organization_id: str
    workflow: str
    version: int
    params: Json
    """As they were checked: defaults filled in."""
    state: JobState
    priority: int
    """Each step counts like having been submitted an hour earlier (setting `ageing_s`)."""
    priority_class: PriorityClass
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
    after: tuple[str, ...]
    """Jobs that must have succeeded and be published before it starts."""
    group: str | None
    """Jobs of a group were submitted together, and can be cancelled together."""
    is_foreign: bool
    """Submitted through the WEBKNOSSOS face."""
    charge_millicredits: int | None
    """What it is charged; None if it costs nothing."""
    refunded_millicredits: int | None
    """What was returned of the charge; None if it costs nothing."""
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
    """Why a queued job does not run yet; None for all others."""

    @property
    def still(self) -> JobView:
        """The same without what changes by time alone: to tell whether anything has happened to the job."""
        wait = self.wait
        if wait is not None and wait.code == "backoff":
            wait = wait.model_copy(update={"reason": ""})  # it counts down to `available_ms`
        return self.model_copy(update={"as_of_ms": 0, "heard_s": None, "wait": wait})

    @property
    def is_ended(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def can_cancel(self) -> bool:
        return self.state in ("queued", "claimed", "running")

    @property
    def can_retry(self) -> bool:
        return self.state in ("failed", "cancelled") or self.publication == "failed"


class JobPrice(Message):
    """What a job would cost now, and what for."""

    price: PriceView | None
    """None if it costs nothing."""
    size: str | None
    """Extent of the box whose voxels are counted, in voxels of `mag`: `width,height,depth`; None if they are counted
    otherwise."""
    mag: str | None


class GroupQuote(Message):
    """What jobs that are submitted together would cost."""

    quotes: tuple[QuoteView | None, ...]
    """Of each job, in their order; None for those that cost nothing."""
    amount: int
    """Of all, in millicredits."""
    available: int | None
    """What the organization can spend, in millicredits; None if nothing costs anything."""
    has_enough: bool


class SavedParams(Message):
    """Params of a workflow that somebody keeps under a name."""

    id: str
    workflow: str
    version: int
    """Of the workflow, when they were saved."""
    name: str
    params: Json
    """Some or all of them."""
    is_shared: bool
    """All members of the organization may use them."""
    is_own: bool
    """They belong to whoever asks."""
    user_id: str
    owner: str
    """Name of the user, for people."""
    created_ms: int
    updated_ms: int


class RefusedJob(Message):
    """One of several jobs with which nothing was done."""

    job_id: str
    code: str
    reason: str
    """A sentence for people."""


class BulkAnswer(Message):
    """What became of several jobs, each on its own."""

    jobs: tuple[JobView, ...]
    """Those that are cancelled or about to be; or the new ones that repeat others."""
    refused: tuple[RefusedJob, ...]


class BulkQuote(Message):
    """What it would cost to repeat several jobs."""

    quotes: dict[str, QuoteView | None]
    """Of each job that can be repeated, by its id; None for those that cost nothing."""
    amount: int
    """Of all, in millicredits."""
    available: int | None
    """What the organization can spend, in millicredits; None if nothing costs anything."""
    refused: tuple[RefusedJob, ...]

    @property
    def has_enough(self) -> bool:
        return self.available is None or self.amount <= self.available


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
    memory_bytes_max: int | None
    """Memory that it was given, in bytes; None: all that its worker gives to one job."""
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
    artifact: ArtifactView | None = None
    """The file that it has left, for members of its organization, until its term is over."""


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


class LogLines(Message):
    """Some lines of an attempt's log, as they are shown: without terminal codes, and without what was written over."""

    first: int
    """Number of the first one, from 1."""
    lines: tuple[str, ...]
    """Without their ends. Fewer than were asked for at the end of the log, or if they are very long."""
    total: int
    """Lines that the log has now."""
    is_open: bool
    """The last line of the log has no end yet."""
    size: int
    """Bytes of log that can be read now."""
    is_complete: bool
    """No more bytes will come."""

    @property
    def ended(self) -> int:
        """Lines that will not change any more."""
        return self.total - self.is_open


class LogHits(Message):
    """Where a text stands in an attempt's log."""

    lines: tuple[int, ...]
    """Numbers of the lines with it, from 1; of very many the first 10,000."""
    count: int
    """All lines with it among those that were searched."""
    searched: int
    """Lines that are behind, with those that were searched before: where to go on."""
    is_whole: bool
    """The log was searched to its end."""


class WorkerView(Message):
    """A worker session that was not replaced."""

    session_id: str
    name: str
    version: str
    workflows: dict[str, int]
    protocol: int
    job_slots: int
    """Jobs of all classes that it runs side by side."""
    slots: dict[PriorityClass, int]
    gpus: int
    gpu_names: tuple[str, ...]
    """What they are, with their driver."""
    memory_bytes: int | None
    """Memory that it gives to one job at most, in bytes."""
    isolation: str
    """How its jobs are kept apart from the rest of the machine."""
    organization_id: str | None
    """The only organization that it works for; None: for all."""
    opened_ms: int
    heard_s: float
    is_online: bool
    failures_in_a_row: int
    """Different jobs that failed on it since the last one that did not."""
    paused_ms: int | None
    """Since when it gets no jobs, because too many failed on it in a row; None: it gets some."""
    paused_why: str | None
    is_draining: bool
    """It ends as soon as its jobs have ended, or has ended in good order."""
    job_ids: tuple[str, ...]
    """Jobs that it holds."""

    @property
    def is_native(self) -> bool:
        """Whether it speaks our own protocol; workers of WEBKNOSSOS do not tell how they keep jobs apart."""
        return bool(self.isolation)


class PauseView(Message):
    """A class of jobs of which none is given away."""

    priority_class: PriorityClass
    since_ms: int
    who: str
    why: str


class QueueDepth(Message):
    """How many jobs of a workflow wait or run."""

    workflow: str
    priority_class: PriorityClass
    queued: int
    running: int
    """Held by a worker, in any state."""
    oldest_s: float | None
    """How long the oldest queued job could have been given away; None if there is none."""


class QueueMetrics(Message):
    """What an operator watches (R25). Counts are since the database was made."""

    depths: tuple[QueueDepth, ...]
    unpublished: int
    """Accepted results that nobody can see yet."""
    claims: int
    late_renewals: int
    """Renewals more than twice as late as they should be."""
    lost_leases: int
    reaper_actions: int
    refunds: int
    refunded_millicredits: int


class FailureGroup(Message):
    """Jobs that failed alike, or whose results could not be published for the same reason."""

    id: str
    """Names what they have in common."""
    failure_class: FailureClass
    code: str
    workflow: str
    message: str
    """Of the latest; numbers and names differ in the others."""
    count: int
    organization_count: int
    last_ms: int
    job_ids: tuple[str, ...]
    """The latest ones."""


PICTURE_EDGE_MAX = 512
"""Longest side of a picture, in pixels."""
Plane = Literal["xy", "xz", "yz"]
"""How a slice lies: its first axis goes to the right, its second downwards."""


class PictureView(Message):
    """A picture for people, as WebP."""

    file: str = Field(pattern=r"^[0-9a-f]{32}\.webp$")
    """Its name, made of its content: equal pictures have equal names."""
    width: int = Field(ge=1, le=PICTURE_EDGE_MAX)
    """In pixels."""
    height: int = Field(ge=1, le=PICTURE_EDGE_MAX)
    address: str = ""
    """Where the server gives it away; it changes with the content, so that it may be kept for ever."""


class SliceView(PictureView):
    """A picture of a slice through a layer.

    It covers its box exactly: pixel `i` of `width` shows the part from `i * w / width` to `(i + 1) * w / width` of the
    `w` voxels that the box has on the first axis of the plane, and likewise downwards. The voxel below the middle of a
    pixel is therefore `start + floor((i + 0.5) * w / width)`.
    """

    plane: Plane
    box: str
    """What it covers: mag 1, `x,y,z,width,height,depth`, one voxel thick at the position of the slice. A layer without
    coarser mags that is too large to be read for a picture is shown in part. A slice that was taken from a coarser mag
    shows the mean of the voxels around this position."""


class LayerPreview(Message):
    """The pictures of a layer.

    Those of layers with the same box whose slices have the same boxes lie on each other: the pictures of a segmentation
    are transparent where there is no segment.
    """

    slices: tuple[SliceView, ...]
    """Through one point: `xy`, `xz`, `yz`."""
    thumbnail: PictureView
    """The first slice, small."""


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
    attachments: tuple[str, ...] = ()
    """Kind and name of each, such as `meshes/oversegmentation`."""
    has_segment_table: bool = False
    """Whether its segments were measured."""
    labelled_boxes: tuple[str, ...] = ()
    """Of ground truth the boxes, in mag 1, that were labelled as a whole."""
    modality: str | None = None
    """Kind of microscopy of an image, such as `FIB-SEM`; null if nobody has stated it."""
    preview: LayerPreview | None = None
    """None if no pictures were made yet."""


class DatasetSummary(Message):
    """What the catalog remembers of a dataset's metadata."""

    voxel_size: str | None
    """Nanometres, `x,y,z`."""
    layers: tuple[LayerSummary, ...]

    def with_previews(self, previews: Mapping[str, LayerPreview]) -> DatasetSummary:
        """Put pictures, by layer, in place of those that were known; other layers have none."""
        layers = (layer.model_copy(update={"preview": previews.get(layer.name)}) for layer in self.layers)
        return self.model_copy(update={"layers": tuple(layers)})


class DatasetView(Message):
    """A dataset of the catalog."""

    id: str
    name: str
    place: str
    """Where it lies; the API leaves it empty for datasets of other organizations."""
    summary: DatasetSummary
    created_ms: int
    updated_ms: int
    made_by_job: str | None
    organization_id: str
    user_id: str | None
    """Who made or linked it."""
    is_public: bool
    """Members of all organizations may read it."""
    is_linked: bool
    """It stays where its owner keeps it, and can only be read."""
    size_bytes: int
    """What its files take on this server; 0 for linked ones."""
    trashed_ms: int | None
    purge_ms: int | None
    """When a dataset in the trash is deleted for good."""


AnnotationKind = Literal["nml", "zip", "webknossos"]
"""An NML; a zip of one NML and volume data; or an annotation in a WEBKNOSSOS that is not fetched yet."""


class VolumeLayerSummary(Message):
    """A volume layer of an annotation."""

    name: str | None
    fallback_layer: str | None
    location: str | None
    """Entry of the zip; None if the volume data was left out."""
    has_editable_mapping: bool = False
    """Its segments were split or merged by proofreading, which the WEBKNOSSOS that it comes from applies."""


class AnnotationSummary(Message):
    """What an annotation holds."""

    dataset_name: str | None
    """Name of the dataset that it was made in, as the file says."""
    tree_count: int
    node_count: int
    volume_layers: tuple[VolumeLayerSummary, ...]
    bounding_boxes: tuple[str, ...]
    """Those that its user drew, and that of its task: mag 1, `x,y,z,width,height,depth`."""


class AnnotationView(Message):
    """An annotation of the catalog."""

    id: str
    organization_id: str
    user_id: str
    name: str
    kind: AnnotationKind
    dataset_id: str | None
    """Dataset of the catalog that it belongs to, if that was said."""
    address: str | None
    """In a WEBKNOSSOS, of one that comes from there."""
    has_token: bool
    """Whether a token for that address is stored."""
    streams_at: str | None = None
    """Where that WEBKNOSSOS gives its voxels, if it was proofread."""
    fetched_ms: int | None = None
    """When its file came from there."""
    is_fetching: bool = False
    """Its file is being fetched, or will be tried again soon."""
    fetch_problem: str | None = None
    """Why the last try failed."""
    size_bytes: int
    sha256: str | None
    summary: AnnotationSummary | None
    """None for one that is not fetched yet."""
    created_ms: int
    trashed_ms: int | None
    purge_ms: int | None
    """When an annotation in the trash is deleted for good."""


class TreeSummary(Message):
    """A tree of a skeleton."""

    name: str | None
    color: str | None
    """`#rrggbb`; None if the file states none."""
    node_count: int
    edge_count: int


class VolumeLayerContents(Message):
    """A volume layer of an annotation, and how its data is stored."""

    name: str | None
    fallback_layer: str | None
    """Segmentation layer of the dataset that it changes."""
    location: str | None
    """Entry of the zip; None if the volume data was left out."""
    data_format: str | None
    """As the file states it, such as `zarr3`."""
    size_bytes: int | None = None
    """Of that entry, a zip of its own; None if there is none."""


class AnnotationContents(Message):
    """What an uploaded annotation holds, one by one."""

    trees: tuple[TreeSummary, ...]
    """The first ones, in the order of the file."""
    edge_count: int
    """Of all trees."""
    volume_layers: tuple[VolumeLayerContents, ...]


class ArtifactView(Message):
    """A file that a job has left for download."""

    job_id: str
    organization_id: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_ms: int
    expires_ms: int
    """When it is removed."""


class ModelVersionView(Message):
    """A version of a model."""

    number: int
    place: str
    facts: ModelFacts
    size_bytes: int
    user_id: str | None
    made_by_job: str | None
    created_ms: int | None
    """None for what is installed."""


class ModelView(Message):
    """A model, with its versions."""

    id: str
    name: str
    organization_id: str | None
    """None for what is installed on the server, for all organizations."""
    comment: str
    user_id: str | None
    """Who made the first version."""
    created_ms: int | None
    updated_ms: int | None
    shared_with: tuple[str, ...] = ()
    """Other organizations that may use it, as far as its own asks."""
    versions: tuple[ModelVersionView, ...]
    """Newest first; never none."""

    @property
    def latest(self) -> ModelVersionView:
        return self.versions[0]

    @property
    def facts(self) -> ModelFacts:
        return self.latest.facts

    @property
    def is_installed(self) -> bool:
        return self.organization_id is None

    def version(self, number: int | None) -> ModelVersionView | None:
        """Give a version, or the newest; None if it is not there."""
        return next((item for item in self.versions if number in (None, item.number)), None)


class StorageView(Message):
    """How much an organization stores."""

    used_bytes: int
    """Datasets, annotations, models, files for download and uploads, with what is in the trash or still to come;
    linked datasets take nothing."""
    max_bytes: int | None
    """None if there is no limit."""


LeftoverKind = Literal["dataset", "annotation", "upload", "artifact", "file", "attempt"]
"""A dataset or annotation in the trash; images that somebody sent, or has begun to; a file that a job has left for
download; a file that belongs to nothing, or the pictures of a linked dataset that is gone; the folder of an attempt."""


class LeftoverView(Message):
    """Something that takes room and will be removed."""

    kind: LeftoverKind
    organization_id: str
    name: str
    """Of the dataset or annotation, or the path below the server's folders."""
    size_bytes: int
    removal_ms: int | None
    """When it is removed; None for the work or the images of a job that has not ended or is being cleared up."""
