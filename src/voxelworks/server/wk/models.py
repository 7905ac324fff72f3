"""The JSON of WEBKNOSSOS, as far as the face speaks it. Times are milliseconds since 1970 in UTC."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from voxelworks.protocol.foreign import WireState
from voxelworks.protocol.messages import Json


class Wire(BaseModel):
    """Base of answers: written in camel case; None is left out where the route says so."""

    model_config = ConfigDict(
        frozen=True, populate_by_name=True, alias_generator=AliasGenerator(serialization_alias=to_camel)
    )


class RefusalMessage(Wire):
    error: str


class Refusal(Wire):
    """Why a request was refused."""

    messages: tuple[RefusalMessage, ...]
    code: str
    """Ours; WEBKNOSSOS has none."""


class ForeignJob(Wire):
    """A job, as clients see it. What it does not have is left out, and so not required in the description."""

    id: str
    command: str
    organization_id: str
    owner_first_name: str
    owner_last_name: str
    owner_email: str
    args: Json
    """In snake case, without tokens and paths of the server."""
    state: WireState
    """The effective one."""
    manual_state: WireState | None = None
    return_value: str | None = None
    result_link: str | None = None
    """Path of the result's page."""
    voxelytics_workflow_hash: str | None = None
    created: int
    started: int | None = None
    ended: int | None = None
    last_retry: int | None = None
    cost_in_milli_credits: int | None = None
    error_details: Json | None = None


class JobForWorker(BaseModel):
    """A job, as workers see it. In snake case, as the protocol has it."""

    job_id: str
    command: str
    job_kwargs: Json


class PollAnswer(BaseModel):
    to_run: list[JobForWorker]
    to_cancel: list[JobForWorker]


class ForeignWorker(Wire):
    id: str
    name: str
    max_parallel_high_priority_jobs: int
    max_parallel_low_priority_jobs: int
    supported_job_commands: list[str]
    created: int
    last_heart_beat: int
    last_heart_beat_is_recent: bool
    last_reported_version: str | None


class JobsStatus(Wire):
    workers: list[ForeignWorker]
    jobs_by_state: dict[WireState, int]


class CreditCost(Wire):
    cost_in_milli_credits: int
    has_enough_credits: bool
    organization_milli_credits: int


class CreditTransaction(Wire):
    """A row of the credit activity."""

    id: str
    organization_id: Annotated[str, Field(serialization_alias="organization_id")]
    """Not in camel case: the protocol has it so."""
    related_transaction: str | None
    paid_job: Json | None
    credit_change: int
    """Millicredits."""
    comment: str
    transaction_state: str
    credit_state: str
    expiration_date: int | None
    created_at: int
    updated_at: int


class TeamMembership(Wire):
    id: str
    name: str
    is_team_manager: bool


class ForeignUser(Wire):
    id: str
    email: str
    first_name: str
    last_name: str
    organization: str
    is_admin: bool
    is_organization_owner: bool
    is_dataset_manager: bool
    is_active: bool
    is_super_user: bool
    teams: list[TeamMembership]
    experiences: dict[str, int]
    created: int
    last_activity: int


class ForeignOrganization(Wire):
    id: str
    name: str
    additional_information: str
    enable_auto_verify: bool
    included_storage_bytes: int | None
    used_storage_bytes: int
    owner_name: str
    milli_credit_balance: int | None


class DataStore(Wire):
    name: str
    url: str
    allows_upload: bool


class ForeignDataset(Wire):
    id: str
    name: str
    directory_name: str
    owning_organization: str
    data_source: Json
    data_store: DataStore
    is_public: bool
    is_active: bool
    folder_id: str
    allowed_teams: list[TeamMembership]
    tags: list[str]
    created: int
    used_storage_bytes: int


class DatasetCompact(Wire):
    """A dataset, as lists show it."""

    id: str
    name: str
    owning_organization: str
    tags: list[str]
    is_active: bool
    created: int


class DatasetId(Wire):
    id: str
    name: str
    organization: str
    directory_name: str


class AiModelUser(Wire):
    """Who made a model."""

    id: str
    email: str
    first_name: str
    last_name: str


class AiModel(Wire):
    """A model."""

    id: str
    name: str
    is_owned_by_users_organization: bool
    data_store: DataStore
    user: AiModelUser | None
    comment: str
    training_job: ForeignJob | None
    created: int
    shared_organization_ids: list[str] | None
    """None for what belongs to others."""
    category: str
    path: str | None
    """Never told: it is a path of the server."""
    is_usable: bool


class AiInference(Wire):
    """A segmentation with a model."""

    id: str
    """Of its job."""
    data_store: DataStore
    new_segmentation_layer_name: str
    mask_annotation_layer_name: str | None
    inference_job: ForeignJob
    ai_model: AiModel | None
    """None if it was deleted, or is not shared any more."""
    user: AiModelUser | None
    new_dataset: DatasetCompact | None
    """None until it is there, and when it is there no more."""
    created: int


class ForeignVoxelSize(Wire):
    factor: list[float]
    unit: str


class Token(Wire):
    token: str
