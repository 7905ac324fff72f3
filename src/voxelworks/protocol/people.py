"""Who asks: a person, in one organization, through a browser, a token or a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from voxelworks.protocol.messages import Json, Message

Role = Literal["owner", "admin", "dataset_manager", "member"]
"""What somebody is in an organization. Each has exactly one owner."""
ROLES: tuple[Role, ...] = get_args(Role)
"""From the one who may most to the one who may least."""
Scope = Literal["read", "submit", "manage", "admin"]
"""What an API token may be used for, at most as far as its user may go: `read` looks; `submit` also starts, cancels and
repeats jobs; `manage` also changes datasets and annotations; `admin` also changes people, credits and settings."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each also allows what those before it allow."""
Entrance = Literal["session", "token", "start_up", "job", "share", "program"]
"""Browser session, API token, start-up token, token of a running job, the address of a share, or a command on the
server's own machine."""

LOCAL_USER_ID = "local"
"""The user that a fresh instance has: the person who started it."""
LOCAL_ORGANIZATION_ID = "local"


@dataclass(frozen=True)
class Principal:
    """Who asks, and what they are. Made by `accounts` alone, from something that the database knows."""

    user_id: str
    organization_id: str
    """The organization for which this request speaks; a user may be in several."""
    role: Role
    name: str
    """For people: shown as the owner of jobs."""
    email: str | None = None
    is_operator: bool = False
    """Runs the instance, whatever the organization."""
    scopes: frozenset[Scope] | None = None
    """Of an API or job token; None if nothing narrows what the role allows."""
    entrance: Entrance = "session"

    @property
    def is_admin(self) -> bool:
        """Whether they see and steer everything of their organization."""
        return self.role in ("owner", "admin")

    @property
    def who(self) -> str:
        """As events and the audit log name them."""
        return f"user:{self.user_id}"


class UserView(Message):
    """A person, as others of the instance may see them."""

    id: str
    name: str
    email: str | None
    is_operator: bool
    created_ms: int
    disabled_ms: int | None
    has_password: bool

    @property
    def is_disabled(self) -> bool:
        return self.disabled_ms is not None


class OrganizationView(Message):
    """Members who share datasets and credits."""

    id: str
    """Short name, as in places and addresses."""
    name: str
    zone: str
    """IANA name of the time zone in which its months end."""
    created_ms: int
    storage_bytes_max: int | None
    """None: no limit of its own."""


class MemberView(Message):
    """Somebody in an organization."""

    user: UserView
    role: Role
    since_ms: int


class MembershipView(Message):
    """An organization of somebody, and what they are there."""

    organization: OrganizationView
    role: Role


class InvitationView(Message):
    """An invitation that nobody has accepted yet."""

    id: str
    organization_id: str
    organization_name: str
    email: str
    role: Role
    invited_by: str
    """Name of the inviting member."""
    created_ms: int
    expires_ms: int
    is_expired: bool
    is_known: bool
    """Somebody with this address has an account already, and needs no new password."""


class LoginSessionView(Message):
    """A browser that somebody is logged in with."""

    id: str
    organization_id: str
    address: str
    agent: str
    """How the browser introduced itself."""
    created_ms: int
    seen_ms: int
    is_current: bool


class ApiTokenView(Message):
    """An API token, without the token."""

    id: str
    hint: str
    """Its first characters."""
    organization_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_ms: int
    expires_ms: int | None
    used_ms: int | None
    is_expired: bool


class NewToken(Message):
    """An API token, which is shown this once."""

    token: str
    view: ApiTokenView


class ShareView(Message):
    """An address under which anybody can read one dataset, or have one file of a job; without the address."""

    id: str
    hint: str
    """First characters of the secret in the address."""
    dataset_id: str
    """Empty if it is for a file."""
    job_id: str | None = None
    """The job that left the file."""
    name: str
    """What it is for."""
    user_id: str
    made_by: str
    """Name of who made it; it ends when they may not read it any more."""
    created_ms: int
    expires_ms: int
    is_expired: bool


class NewShare(Message):
    """The address of a share, which is shown this once."""

    address: str
    """Of the files of the dataset, without a slash at its end: programs open layers below it; or of the one file."""
    viewer: str
    """Of the viewer: people open it in a browser; of a file the same as `address`."""
    view: ShareView


class WorkerKeyView(Message):
    """A worker key, without the key."""

    id: str
    hint: str
    """Its first characters."""
    name: str
    organization_id: str | None
    """Its workers get only jobs of this organization; None: of all."""
    commands: tuple[str, ...]
    """Its workers get only these workflows; empty: all."""
    high_slots: int
    """Most jobs of high priority that its workers may hold at once, where the protocol has no other word for it."""
    low_slots: int
    """The same for low priority."""
    created_ms: int
    created_by: str
    used_ms: int | None
    revoked_ms: int | None

    @property
    def is_revoked(self) -> bool:
        return self.revoked_ms is not None


class AuditView(Message):
    """One line of the audit log."""

    id: int
    at_ms: int
    who: str
    """`user:ID`, `server`, or `nobody` for somebody who was not let in."""
    organization_id: str | None
    action: str
    subject: str
    address: str | None
    """From where, as far as known."""
    detail: Json


class AuditPage(Message):
    """A part of the audit log, newest first."""

    entries: tuple[AuditView, ...]
    next_before: int | None
    """Give it as `before` for the next page; None on the last one."""
