"""Keys of workers: hashed, revocable, each with what its workers may get."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from voxelworks.accounts._audit import audit
from voxelworks.accounts._organizations import get_organization
from voxelworks.accounts._sessions import TOUCH_MS
from voxelworks.accounts._tables import WorkerKeyRow
from voxelworks.accounts._texts import check_name
from voxelworks.accounts._tokens import Prefix, digest, hint, make_id, make_token
from voxelworks.db import insert_into, now, now_ms
from voxelworks.errors import InvalidInput, NotFound
from voxelworks.protocol.people import Principal, WorkerKeyView

SLOTS_MAX = 1000
_BY_SERVER = "server"
_FINDING = select(WorkerKeyRow, now_ms()).where(
    WorkerKeyRow.key_hash == bindparam("key_hash"), WorkerKeyRow.revoked_ms.is_(None)
)


def create_worker_key(
    session: Session,
    by: Principal,
    name: str,
    *,
    organization_id: str | None = None,
    commands: Collection[str] = (),
    high_slots: int = 1,
    low_slots: int = 1,
) -> tuple[str, WorkerKeyView]:
    """Make a key for workers.

    Parameters
    ----------
    organization_id
        Its workers get only jobs of this organization; None: of all.
    commands
        Its workers get only these workflows; empty: all.
    high_slots, low_slots
        Most jobs at once, for workers whose protocol does not say it themselves.

    Returns
    -------
    key, view
        The key is shown now and never again.

    Raises
    ------
    InvalidInput
    NotFound
        If there is no such organization.
    """
    if organization_id is not None:
        get_organization(session, organization_id)
    for what, slots in (("high", high_slots), ("low", low_slots)):
        if not 0 <= slots <= SLOTS_MAX:
            raise InvalidInput(
                f"a worker cannot have {slots} slots of {what} priority; choose 0 to {SLOTS_MAX}"
            )
    key = make_token(Prefix.WORKER)
    row = WorkerKeyRow(
        id=make_id(), key_hash=digest(key), hint=hint(key), name=check_name("name of the key", name),
        organization_id=organization_id, commands=sorted({check_name("workflow", item) for item in commands}),
        high_slots=high_slots, low_slots=low_slots, created_ms=now(session), created_by=by.who,
    )  # fmt: skip
    session.add(row)
    session.flush()
    audit(
        session, by, "worker_key.created", f"worker_key:{row.id}", name=row.name, for_jobs_of=organization_id
    )
    return key, _view(row)


def ensure_worker_key(session: Session, key: str, name: str) -> WorkerKeyView:
    """Register the key in a file of the server, and revoke the one that was in that file before.

    A key that an operator revoked stays revoked: they have to delete the file.
    """
    session.execute(
        insert_into(session, WorkerKeyRow)
        .values(
            id=make_id(), key_hash=digest(key), hint=hint(key), name=check_name("name of the key", name),
            commands=[], high_slots=1, low_slots=1, created_ms=now(session), created_by=_BY_SERVER,
        )
        .on_conflict_do_nothing()
    )  # fmt: skip
    session.execute(
        update(WorkerKeyRow)
        .where(
            WorkerKeyRow.name == name, WorkerKeyRow.created_by == _BY_SERVER,
            WorkerKeyRow.key_hash != digest(key), WorkerKeyRow.revoked_ms.is_(None),
        )
        .values(revoked_ms=now_ms())
    )  # fmt: skip
    return _view(session.scalars(select(WorkerKeyRow).where(WorkerKeyRow.key_hash == digest(key))).one())


def find_worker_key(session: Session, key: str) -> WorkerKeyView | None:
    """Find a key that was not revoked. This only reads: see `touch_worker_key`."""
    found = find_key(session, key)
    return None if found is None else found[0]


def find_key(session: Session, key: str) -> tuple[WorkerKeyView, bool] | None:
    """Find a key that was not revoked, and tell whether its use should be noted."""
    found = session.execute(_FINDING, {"key_hash": digest(key)}).first()
    if found is None:
        return None
    row, at_ms = found
    return _view(row), row.used_ms is None or at_ms - row.used_ms >= TOUCH_MS


def touch_worker_key(session: Session, key: str) -> None:
    """Note that a key was used, at most once a minute."""
    is_due = WorkerKeyRow.used_ms.is_(None) | (WorkerKeyRow.used_ms <= now_ms() - TOUCH_MS)
    session.execute(
        update(WorkerKeyRow).where(WorkerKeyRow.key_hash == digest(key), is_due).values(used_ms=now_ms())
    )


def list_worker_keys(session: Session, *, organization_id: str | None = None) -> tuple[WorkerKeyView, ...]:
    """Give all keys, or those of one organization: those that work first, each group newest first."""
    query = select(WorkerKeyRow).order_by(
        WorkerKeyRow.revoked_ms.is_not(None), WorkerKeyRow.created_ms.desc(), WorkerKeyRow.id
    )
    if organization_id is not None:
        query = query.where(WorkerKeyRow.organization_id == organization_id)
    return tuple(_view(row) for row in session.scalars(query))


def revoke_worker_key(session: Session, by: Principal, key_id: str) -> WorkerKeyView:
    """Shut the workers of a key out. What they hold goes to others when its lease ends.

    Raises
    ------
    NotFound
    """
    row = session.get(WorkerKeyRow, key_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no worker key {key_id!r}; see the list of worker keys")
    if row.revoked_ms is None:
        row.revoked_ms = now(session)
        audit(session, by, "worker_key.revoked", f"worker_key:{row.id}", name=row.name)
    return _view(row)


def _view(row: WorkerKeyRow) -> WorkerKeyView:
    return WorkerKeyView(
        id=row.id, hint=row.hint, name=row.name, organization_id=row.organization_id,
        commands=tuple(row.commands), high_slots=row.high_slots, low_slots=row.low_slots,
        created_ms=row.created_ms, created_by=row.created_by, used_ms=row.used_ms, revoked_ms=row.revoked_ms,
    )  # fmt: skip
