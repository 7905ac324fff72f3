"""What is told: one model for each kind of message, with the subject of its mail."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from voxelworks.errors import FailureClass

JobOutcome = Literal["succeeded", "failed", "cancelled"]


class Told(BaseModel):
    """Base of all messages: frozen, plain values only, as they are stored as JSON.

    Unknown fields are ignored: another version of the server may have written the row.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    holds_secret: ClassVar[bool] = False
    """Whether whoever reads it can act as somebody else."""

    @property
    def subject(self) -> str:
        raise NotImplementedError


class JobEnd(Told):
    """How a job ended."""

    job_id: str
    workflow: str
    title: str
    """Name of the workflow for people."""
    organization_id: str
    user_id: str
    user_name: str
    email: str | None
    """Where its owner gets mail; None sends none."""
    state: JobOutcome
    subject_line: str = ""
    """What the job was about in a few words, such as the name of a dataset."""
    result_link: str | None = None
    """Path of the page of the result, if it has one."""
    failure_class: FailureClass | None = None
    message: str | None = None
    """Why it failed or was cancelled, and what to do."""
    charged: int = 0
    """In millicredits."""
    returned: int = 0
    """In millicredits."""
    is_foreign: bool = False
    """Submitted by a program written for WEBKNOSSOS, whose users expect its mails."""
    is_free_rerun: bool = False
    """Started again by the operator at no charge: its owner was told of a failure already."""
    duration_s: float | None = None

    @property
    def subject(self) -> str:
        if self.is_foreign:
            return _foreign_subject(self)
        if self.state == "succeeded":
            words = SUCCESS_SUBJECTS.get(self.workflow, f"{self.title} is ready")
        else:
            words = f"{self.title} {'failed' if self.state == 'failed' else 'was cancelled'}"
        return f"{words}: {self.subject_line}" if self.subject_line else words

    @property
    def job_path(self) -> str:
        return f"/jobs/{self.job_id}"


SUCCESS_SUBJECTS = {
    "convert": "Your dataset is ready",
    "downsample": "Your image pyramid is ready",
    "find_largest_segment_id": "Your largest segment id is ready",
    "compute_mesh_file": "Mesh Generation is ready",
    "export_tiff": "Tiff Export is ready",
    "export_ome_zarr": "OME-Zarr Export is ready",
    "render_animation": "Dataset Animation is ready",
    "materialize_volume_annotation": "Volume Annotation Merged is ready",
    "infer_neurons": "Your segmentation is ready",
    "infer_instances": "Instance Segmentation is ready",
    "infer_mitochondria": "Your mitochondria segmentation is ready",
    "align_sections": "Your alignment is ready",
    "train_neuron_model": "Your model training is ready",
    "train_instance_model": "Your model training is ready",
}
UNTOLD = frozenset({"describe"})
"""Jobs of the server itself, which takes care that datasets have pictures: pages show how that went."""
UNTOLD_FOREIGN_SUCCESSES = frozenset(
    {
        "find_largest_segment_id", "compute_segment_index_file", "infer_nuclei", "infer_with_model",
        "globalize_floodfills", "train_model",
    }
)  # fmt: skip
"""Of these WEBKNOSSOS tells only the failures."""


def _foreign_subject(end: JobEnd) -> str:
    if end.state == "succeeded":
        return SUCCESS_SUBJECTS.get(end.workflow, f"{end.title} is ready")
    if end.workflow == "convert":
        return "Oops. Your dataset upload & conversion failed"
    return "Oops. Your Voxelworks job failed"


class Digest(Told):
    """The ends of several jobs."""

    ends: tuple[JobEnd, ...]

    @property
    def subject(self) -> str:
        failed = sum(end.state == "failed" for end in self.ends)
        return f"{len(self.ends)} jobs ended" + (f", {failed} of them failed" if failed else "")


class Invitation(Told):
    """Somebody is asked to join an organization."""

    holds_secret = True

    organization_name: str
    invited_by: str
    role: str
    path: str
    expires_ms: int | None = None

    @property
    def subject(self) -> str:
        return f"{self.invited_by} invites you to {self.organization_name}"


class PasswordReset(Told):
    """A way to a new password."""

    holds_secret = True

    name: str
    path: str
    valid_minutes: int

    @property
    def subject(self) -> str:
        return "Choose a new password"


class CreditsOrdered(Told):
    """The owner of an organization wants to buy credits."""

    organization_id: str
    organization_name: str
    ordered_by: str
    ordered_by_email: str | None = None
    credits: int
    """Whole credits."""
    comment: str | None = None
    path: str | None = None

    @property
    def subject(self) -> str:
        return f"{self.organization_name} orders {self.credits:,} credits"


class CreditsGranted(Told):
    """The operator gave credits to an organization."""

    organization_name: str
    amount: int
    """Millicredits."""
    expires_ms: int | None = None
    comment: str | None = None
    path: str | None = None

    @property
    def subject(self) -> str:
        return f"New credits for {self.organization_name}"


class CreditsDeclined(Told):
    """The operator refused an order of credits."""

    organization_name: str
    credits: int
    """Whole credits."""
    reason: str
    path: str | None = None

    @property
    def subject(self) -> str:
        return f"The order of {self.credits:,} credits for {self.organization_name} was declined"


class HelpRequest(Told):
    """Somebody does not know what to do about a failed job."""

    job_id: str
    title: str
    organization_id: str
    user_name: str
    user_email: str | None = None
    question: str | None = None
    failure: str | None = None
    log_tail: str | None = None
    versions: str | None = None
    path: str | None = None

    @property
    def subject(self) -> str:
        return f"Help wanted: {self.title}, job {self.job_id}"


class Alert(Told):
    """Something that the operator must look at."""

    title: str
    text: str
    path: str | None = None

    @property
    def subject(self) -> str:
        return f"Alert: {self.title}"


class TestMessage(Told):
    """Shows that messages arrive."""

    __test__ = False  # pytest would take it for a test

    text: str = "This is a test. Messages of this server arrive here."

    @property
    def subject(self) -> str:
        return "Test message of Voxelworks"


Template = Literal[
    "job", "digest", "invitation", "password_reset", "credits_ordered", "credits_granted", "credits_declined",
    "help_request", "alert", "test",
]  # fmt: skip
MESSAGES: dict[Template, type[Told]] = {
    "job": JobEnd, "digest": Digest, "invitation": Invitation, "password_reset": PasswordReset,
    "credits_ordered": CreditsOrdered, "credits_granted": CreditsGranted,
    "credits_declined": CreditsDeclined, "help_request": HelpRequest, "alert": Alert, "test": TestMessage,
}  # fmt: skip
"""Template -> what it is filled in with."""
