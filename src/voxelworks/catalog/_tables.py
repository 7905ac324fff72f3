"""The tables of datasets, annotations, models, artifacts and uploads.

No foreign keys lead to organizations, users and jobs: what is stored outlives the records of those who made it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base
from voxelworks.protocol.uploads import UploadState
from voxelworks.protocol.views import AnnotationKind


class DatasetRow(Base):
    """A dataset that jobs may name."""

    __tablename__ = "datasets"
    # Also in the trash a dataset keeps its name: its files still lie under it.
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        UniqueConstraint("organization_id", "place"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    place: Mapped[str]
    summary: Mapped[dict[str, Any]]
    created_ms: Mapped[int]
    updated_ms: Mapped[int]
    made_by_job: Mapped[str | None]
    organization_id: Mapped[str]
    user_id: Mapped[str | None]
    is_public: Mapped[bool]
    is_linked: Mapped[bool]
    """It stays where its owner keeps it: nothing is ever written or deleted there."""
    size_bytes: Mapped[int]
    trashed_ms: Mapped[int | None]
    purge_ms: Mapped[int | None]
    is_purging: Mapped[bool]
    """Its files are being deleted: it cannot be restored any more."""


class AnnotationRow(Base):
    """An annotation: a file in the folder of annotations, uploaded or fetched from a WEBKNOSSOS."""

    __tablename__ = "annotations"

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str]
    name: Mapped[str]
    kind: Mapped[AnnotationKind] = mapped_column(Text)
    dataset_id: Mapped[str | None]
    # Not a foreign key: an annotation is worth keeping when its dataset is gone.
    address: Mapped[str | None]
    """In a WEBKNOSSOS, from which it is fetched."""
    sealed_token: Mapped[str | None]
    """Encrypted with the server's key file."""
    streams_at: Mapped[str | None]
    """Where that WEBKNOSSOS gives its voxels with all mappings applied, if the file alone does not tell them."""
    fetched_ms: Mapped[int | None]
    fetch_due_ms: Mapped[int | None]
    """From when on it may be fetched, or, while somebody does, taken over from them; None if that is over."""
    fetch_tries: Mapped[int] = mapped_column(default=0)
    fetch_problem: Mapped[str | None]
    """Why the last try failed."""
    size_bytes: Mapped[int]
    sha256: Mapped[str | None]
    summary: Mapped[dict[str, Any] | None]
    contents: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """Read from the file when somebody looks at it for the first time; lists do without."""
    created_ms: Mapped[int]
    trashed_ms: Mapped[int | None]
    purge_ms: Mapped[int | None]
    is_purging: Mapped[bool]


class ArtifactRow(Base):
    """A file that a job has left for download."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    media_type: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str]
    created_ms: Mapped[int]
    """Its term counts from here."""
    is_doomed: Mapped[bool] = mapped_column(default=False)
    """Somebody has deleted it before its term was over."""


class ModelRow(Base):
    """A model of an organization."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("organization_id", "name"),
        UniqueConstraint("organization_id", "folder"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    name: Mapped[str]
    folder: Mapped[str]
    """Its first name: below it lie its versions, whatever it is called later."""
    comment: Mapped[str]
    user_id: Mapped[str | None]
    last_number: Mapped[int]
    """Of its versions: the number of one that is deleted is not given again."""
    created_ms: Mapped[int]
    updated_ms: Mapped[int]


class ModelVersionRow(Base):
    """A version of a model: the folder of a package."""

    __tablename__ = "model_versions"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    organization_id: Mapped[str] = mapped_column(index=True)
    facts: Mapped[dict[str, Any]]
    size_bytes: Mapped[int]
    user_id: Mapped[str | None]
    made_by_job: Mapped[str | None]
    created_ms: Mapped[int]
    is_purging: Mapped[bool]
    """Its files are being deleted: it is there no more."""


class ModelShareRow(Base):
    """Another organization may use a model."""

    __tablename__ = "model_shares"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    organization_id: Mapped[str] = mapped_column(primary_key=True, index=True)


class UploadRow(Base):
    """Files that somebody sends, or has sent."""

    __tablename__ = "uploads"
    # The same files from the same person are the same upload: so it goes on after anything that broke it off.
    __table_args__ = (UniqueConstraint("organization_id", "user_id", "manifest_sha256"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str]
    user_id: Mapped[str]
    manifest_sha256: Mapped[str]
    """Of paths, sizes and times of its files."""
    state: Mapped[UploadState] = mapped_column(Text)
    file_count: Mapped[int]
    size_bytes: Mapped[int]
    """Of all its files: what it takes of the storage of the organization, also before they are there."""
    is_archive: Mapped[bool]
    """It is one zip, of which the files are unpacked."""
    created_ms: Mapped[int]
    used_ms: Mapped[int]
    """When somebody last went on with it, or gave it to a job."""
    converted_ms: Mapped[int | None]
    """When a job had made a dataset of it; None again when it is given to another one."""


class UploadFileRow(Base):
    """A file of an upload."""

    __tablename__ = "upload_files"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str]
    size_bytes: Mapped[int]
    received_bytes: Mapped[int]
    """How much of its beginning is on the disk for sure."""
