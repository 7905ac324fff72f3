"""The tables of people, organizations, tokens and the audit log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from voxelworks.db import Base, refuse_changes
from voxelworks.protocol.people import Role

_IS_ROLE = "role IN ('owner', 'admin', 'dataset_manager', 'member')"


class UserRow(Base):
    """A person."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(unique=True)
    """In lower case (casefolded): addresses that differ in case alone are one."""
    name: Mapped[str]
    password_hash: Mapped[str | None]
    """Argon2id, with its parameters. None: this person does not log in by password."""
    is_operator: Mapped[bool]
    created_ms: Mapped[int]
    disabled_ms: Mapped[int | None]
    oidc_subject: Mapped[str | None] = mapped_column(unique=True)
    """Issuer and subject at the identity provider."""


class OrganizationRow(Base):
    """Members who share datasets and credits. Its row is the lock of all changes of its members."""

    __tablename__ = "organizations"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Short name, as in places and addresses."""
    name: Mapped[str]
    zone: Mapped[str]
    """IANA name of the time zone in which its months end."""
    created_ms: Mapped[int]
    storage_bytes_max: Mapped[int | None]
    """None: no limit of its own."""


class MembershipRow(Base):
    """What somebody is in an organization."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint(_IS_ROLE, name="role"),
        Index(
            "ix_memberships_owner", "organization_id", unique=True,
            sqlite_where=text("role = 'owner'"), postgresql_where=text("role = 'owner'"),
        ),
        Index("ix_memberships_organization_id", "organization_id"),
    )  # fmt: skip

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    role: Mapped[Role] = mapped_column(Text)
    created_ms: Mapped[int]


class InvitationRow(Base):
    """A letter that makes its holder a member. Gone once it was accepted or revoked; the audit log remembers."""

    __tablename__ = "invitations"
    __table_args__ = (
        CheckConstraint(_IS_ROLE + " AND role != 'owner'", name="role"),
        Index("ix_invitations_address", "organization_id", "email", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    email: Mapped[str]
    role: Mapped[Role] = mapped_column(Text)
    token_hash: Mapped[str] = mapped_column(unique=True)
    invited_by: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    created_ms: Mapped[int]
    expires_ms: Mapped[int]


class LoginSessionRow(Base):
    """A browser that somebody logged in with."""

    __tablename__ = "login_sessions"
    __table_args__ = (Index("ix_login_sessions_member", "user_id", "organization_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """Names the session in lists; the cookie holds another value."""
    token_hash: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    """For which it speaks at the moment."""
    address: Mapped[str]
    agent: Mapped[str]
    created_ms: Mapped[int]
    seen_ms: Mapped[int]


class ApiTokenRow(Base):
    """A token with which a program, or the process of a job, acts as a user."""

    __tablename__ = "api_tokens"
    __table_args__ = (Index("ix_api_tokens_member", "user_id", "organization_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    """First characters of the token, so that its user knows which one it is."""
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str]
    scopes: Mapped[list[Any]]
    job_id: Mapped[str | None] = mapped_column(index=True)
    """The job whose process holds the token; None for those that people make."""
    created_ms: Mapped[int]
    expires_ms: Mapped[int | None]
    used_ms: Mapped[int | None]


class ShareRow(Base):
    """An address under which anybody can read one dataset, or have one file of a job, for a while."""

    __tablename__ = "shares"
    __table_args__ = (
        Index("ix_shares_dataset", "organization_id", "dataset_id"),
        Index("ix_shares_job", "organization_id", "job_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    """First characters of the secret in the address."""
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    """Who made it: it ends when they may not read the dataset any more."""
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    dataset_id: Mapped[str]
    """Empty if it is for a file."""
    job_id: Mapped[str | None]
    """The job that left the file."""
    name: Mapped[str]
    created_ms: Mapped[int]
    expires_ms: Mapped[int]


class PasswordResetRow(Base):
    """A letter that lets its holder choose a new password, once."""

    __tablename__ = "password_resets"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    created_ms: Mapped[int]
    expires_ms: Mapped[int]


class WorkerKeyRow(Base):
    """A key with which workers introduce themselves. Rows stay, as sessions of workers name them."""

    __tablename__ = "worker_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    key_hash: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    name: Mapped[str]
    organization_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id"), index=True)
    """Only jobs of this organization; None: of all."""
    commands: Mapped[list[Any]]
    """Only these workflows; empty: all."""
    high_slots: Mapped[int]
    low_slots: Mapped[int]
    created_ms: Mapped[int]
    created_by: Mapped[str]
    used_ms: Mapped[int | None]
    revoked_ms: Mapped[int | None]


class AuditRow(Base):
    """Who did what to whom. Without foreign keys: it outlives what it speaks of."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_organization_id_id", "organization_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at_ms: Mapped[int]
    who: Mapped[str]
    organization_id: Mapped[str | None]
    action: Mapped[str]
    subject: Mapped[str]
    address: Mapped[str | None]
    detail: Mapped[dict[str, Any]]


refuse_changes(AuditRow)


class ThrottleRow(Base):
    """How full a bucket of tries is: the date at which it will be empty again."""

    __tablename__ = "throttle"

    key: Mapped[str] = mapped_column(primary_key=True)
    empty_ms: Mapped[int]
