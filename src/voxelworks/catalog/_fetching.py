"""Annotations come from a WEBKNOSSOS: somebody gives an address, a loop of the server fetches what is there.

Fetching takes minutes, and is broken off by cut networks and by servers that are started anew. So the wish is in the
database, with the time from which on it may be taken up: one process moves that time into the future while it fetches,
and a process that died is followed by the next. What cannot pass by itself ends the wish with a sentence for people.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from voxelworks.addresses import AddressRules, Arriving
from voxelworks.catalog._annotations import (
    StoredAnnotation,
    annotation_file,
    annotation_view,
    checked_name,
    discard_stored,
    lock_own_annotation,
    refuse_trashed,
    store_annotation,
)
from voxelworks.catalog._datasets import find
from voxelworks.catalog._storage import check_quota, storage_usage
from voxelworks.catalog._tables import AnnotationRow
from voxelworks.db import Database, SecretBox, now
from voxelworks.errors import (
    InvalidInput,
    QuotaExceeded,
    ServerUnreachable,
    StorageFailed,
    TargetNotWritable,
    VoxelworksError,
)
from voxelworks.protocol.far_annotations import FarAddress, FarDescription, FarServer, check_token
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import AnnotationView
from voxelworks.settings import Settings
from voxelworks.sizes import size_text

LEASE_MS = 600_000
"""After so long another process may fetch what one no longer speaks of: it was silent while it looked through a zip."""
RENEW_EVERY_S = 20.0
TRY_AGAIN_MS = (5_000, 20_000, 60_000, 300_000)
"""Pauses after tries that failed for a reason that can pass."""
_PASSING = (ServerUnreachable, StorageFailed, TargetNotWritable)
_logger = logging.getLogger(__name__)


def add_far_annotation(
    session: Session,
    box: SecretBox,
    *,
    by: Principal,
    address: str,
    name: str = "",
    token: str | None = None,
    dataset: str | None = None,
    places: Places,
) -> AnnotationView:
    """Enter an annotation of a WEBKNOSSOS, to be fetched. One that the same person has entered before is fetched anew.

    Parameters
    ----------
    box
        Encrypts the token.
    address
        As the browser shows it: `https://HOST/annotations/ID`, or a short link.
    name
        By default the one that it has there.
    token
        Of an account there that may read it; not needed for public ones, and kept from an earlier time if not given.
    dataset
        Name or id of the dataset that it belongs to, if that is known.

    Raises
    ------
    InvalidAnnotation
        If it is no such address.
    UnsafeReference
        If its host is not on the operator's list.
    InvalidParams, DatasetNotFound
    """
    far = FarAddress.parse(address)
    places.locate(str(far))
    dataset_id = find(session, dataset, by=by).id if dataset else None
    known = session.scalar(
        select(AnnotationRow.id).where(
            AnnotationRow.organization_id == by.organization_id, AnnotationRow.user_id == by.user_id,
            AnnotationRow.address == str(far), AnnotationRow.trashed_ms.is_(None),
        ).limit(1)
    )  # fmt: skip
    if known is not None:
        row = lock_own_annotation(session, known, by)
        row.name = checked_name(name) if name.strip() else row.name
        row.dataset_id = dataset_id or row.dataset_id
        return fetch_annotation(session, box, known, by=by, token=token)
    row = AnnotationRow(
        id=secrets.token_hex(8), organization_id=by.organization_id, user_id=by.user_id,
        name=checked_name(name) if name.strip() else far.label, kind="webknossos", dataset_id=dataset_id,
        address=str(far), sealed_token=box.seal(check_token(token)) if token else None, size_bytes=0,
        created_ms=now(session), is_purging=False, fetch_due_ms=now(session), fetch_tries=0,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return annotation_view(row)


def fetch_annotation(
    session: Session, box: SecretBox, annotation_id: str, *, by: Principal, token: str | None = None
) -> AnnotationView:
    """Ask that an annotation is fetched anew, with another token if one is given.

    Its file stays until the new one is here.

    Raises
    ------
    NotFound
    InvalidInput
        If it comes from no WEBKNOSSOS.
    InvalidParams
        If the token cannot be one.
    """
    row = lock_own_annotation(session, annotation_id, by)
    refuse_trashed(row)
    if row.address is None:
        raise InvalidInput(f"annotation {row.name!r} was uploaded; upload its file again to have it anew")
    if token:
        row.sealed_token = box.seal(check_token(token))
    row.fetch_due_ms, row.fetch_tries, row.fetch_problem = now(session), 0, None
    session.flush()
    return annotation_view(row)


def annotation_token(
    session: Session, box: SecretBox, annotation_id: str, *, organization_id: str
) -> str | None:
    """Decrypt the token for an annotation of a WEBKNOSSOS; None if none was given, or there is no such annotation.

    Raises
    ------
    StorageFailed
        If the key file is another one.
    """
    row = session.get(AnnotationRow, annotation_id)
    if row is None or row.organization_id != organization_id or row.sealed_token is None:
        return None
    return box.open(row.sealed_token)


def fetch_next(
    database: Database,
    box: SecretBox,
    *,
    places: Places,
    settings: Settings,
    is_closing: Callable[[], bool] = lambda: False,
) -> str | None:
    """Fetch the annotation that has waited longest; give its id, or None if none waits.

    Parameters
    ----------
    is_closing
        Whether the server is about to stop: another takes over at once.
    """
    order = _take(database)
    if order is None:
        return None
    lease = _Lease(database, order, is_closing)
    try:
        found, stored = _fetch(database, lease, box, places, settings)
    except _Stopped:
        return order.id
    except VoxelworksError as error:
        lease.give_up(error)
        return order.id
    except Exception:
        # Otherwise the same would happen again and again.
        _logger.exception("annotation %s could not be fetched", order.id)
        lease.give_up(InvalidInput("an error of the program stopped it; tell the operator"))
        return order.id
    try:
        lease.enter(found, stored, settings)
    except VoxelworksError as error:
        discard_stored(stored)
        lease.give_up(error)
    except _Stopped:
        discard_stored(stored)
    return order.id


@dataclass
class _Order:
    """An annotation to fetch."""

    id: str
    organization_id: str
    address: str
    sealed_token: str | None
    size_bytes: int
    due_ms: int
    """By which the process that fetches is known."""


class _Stopped(Exception):
    """Somebody else fetches it now, or nobody shall any more."""


class _Lease:
    """What keeps others from fetching the same."""

    def __init__(self, database: Database, order: _Order, is_closing: Callable[[], bool]) -> None:
        self.order = order
        self._database = database
        self._is_closing = is_closing
        self._renew_at_s = time.monotonic() + RENEW_EVERY_S

    def keep(self) -> None:
        """Renew the lease from time to time, and stop when it is lost or the server ends."""
        if self._is_closing():
            with self._database.session() as session:
                self._move(session, now(session))
            raise _Stopped
        if time.monotonic() < self._renew_at_s:
            return
        self._renew_at_s = time.monotonic() + RENEW_EVERY_S
        with self._database.session() as session:
            self._move(session, now(session) + LEASE_MS)

    def enter(self, found: FarDescription, stored: StoredAnnotation, settings: Settings) -> None:
        """Put the new file in the place of the old one."""
        with self._database.session() as session:
            row = self._lock(session)
            old = annotation_view(row)
            more = stored.size_bytes - row.size_bytes
            if more > 0:
                check_quota(session, row.organization_id, more, settings=settings, is_taken_at_once=True)
            if row.name == FarAddress.parse(row.address or "").label:
                row.name = found.name or row.name
            summary = stored.summary
            is_proofread = any(layer.has_editable_mapping for layer in summary.volume_layers)
            row.address, row.streams_at = str(found.address), found.streams_at if is_proofread else None
            row.kind, row.size_bytes, row.sha256 = stored.kind, stored.size_bytes, stored.sha256
            row.summary, row.contents = summary.model_dump(mode="json"), None
            row.fetched_ms, row.fetch_due_ms, row.fetch_problem = now(session), None, None
            new = annotation_view(row)
            session.flush()
            # Last of all: if it is not committed then, it is fetched once more.
            os.replace(stored.path, annotation_file(new, settings))
        if old.kind not in ("webknossos", new.kind):
            annotation_file(old, settings).unlink(missing_ok=True)

    def give_up(self, error: VoxelworksError) -> None:
        """Note why it could not be fetched, and when it is tried again, if that can help."""
        with self._database.session() as session:
            try:
                row = self._lock(session)
            except _Stopped:
                return
            row.fetch_problem = error.message
            may_pass = isinstance(error, _PASSING) and row.fetch_tries <= len(TRY_AGAIN_MS)
            row.fetch_due_ms = now(session) + TRY_AGAIN_MS[row.fetch_tries - 1] if may_pass else None
        _logger.info("annotation %s could not be fetched: %s", self.order.id, error.message)

    def _lock(self, session: Session) -> AnnotationRow:
        row = session.get(AnnotationRow, self.order.id, with_for_update=True, populate_existing=True)
        if row is None or row.fetch_due_ms != self.order.due_ms or row.trashed_ms is not None:
            raise _Stopped
        return row

    def _move(self, session: Session, due_ms: int) -> None:
        self._lock(session).fetch_due_ms = due_ms
        self.order.due_ms = due_ms


def _take(database: Database) -> _Order | None:
    """Take up the wish that has waited longest."""
    with database.read_session() as session:  # nearly always there is none
        found = session.execute(_waiting(session)).first()
    if found is None:
        return None
    with database.session() as session:
        row = session.scalar(_waiting(session).with_for_update(skip_locked=True))
        if row is None:
            return None
        row.fetch_due_ms = now(session) + LEASE_MS
        row.fetch_tries += 1
        assert row.address is not None
        return _Order(
            row.id, row.organization_id, row.address, row.sealed_token, row.size_bytes, row.fetch_due_ms
        )


def _waiting(session: Session) -> Select[AnnotationRow]:
    return (
        select(AnnotationRow)
        .where(AnnotationRow.fetch_due_ms <= now(session), AnnotationRow.trashed_ms.is_(None))
        .order_by(AnnotationRow.fetch_due_ms)
        .limit(1)
    )


def _fetch(
    database: Database, lease: _Lease, box: SecretBox, places: Places, settings: Settings
) -> tuple[FarDescription, StoredAnnotation]:
    order = lease.order
    token = None if order.sealed_token is None else box.open(order.sealed_token)
    server = FarServer(places, AddressRules.of(settings), token)
    found = server.describe(FarAddress.parse(order.address))
    lease.keep()
    with database.read_session() as session:
        storage = storage_usage(session, order.organization_id, settings=settings)
    room = None
    if storage.max_bytes is not None:
        room = max(0, storage.max_bytes - storage.used_bytes + order.size_bytes)
    with server.download(found.address) as answer:
        content = _Content(answer, lease, room)
        stored = store_annotation(content, organization_id=order.organization_id, settings=settings)
    return found, stored


class _Content:
    """The file that arrives."""

    def __init__(self, answer: Arriving, lease: _Lease, room: int | None) -> None:
        self._answer = answer
        self._lease = lease
        self._room = room
        self._count = 0
        self._refuse_more_than_room(answer.size_bytes or 0)

    def read(self, size: int) -> bytes:
        self._lease.keep()
        piece = self._answer.read(size)
        if not piece and not self._answer.is_whole:
            raise ServerUnreachable(
                f"the download broke off after {size_text(self._count)} of {size_text(self._answer.size_bytes or 0)}"
            )
        self._count += len(piece)
        self._refuse_more_than_room(self._count)
        return piece

    def _refuse_more_than_room(self, size_bytes: int) -> None:
        if self._room is not None and size_bytes > self._room:
            raise QuotaExceeded(
                f"the annotation takes more than the {size_text(self._room)} that the organization has left; delete "
                "datasets and empty the trash, or ask the operator for more room"
            )
