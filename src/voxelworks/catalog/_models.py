"""Models: those of organizations, with versions and sharing, and those that are installed for all.

A version never changes. Its number is taken when the job is submitted that makes it, and is not given again when it is
deleted. Deleting takes the three steps of the trash without the term: marked, files removed, forgotten.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from pathlib import Path

from sqlalchemy import ColumnElement, Text, column, delete, or_, select, table
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks.catalog._tables import ModelRow, ModelShareRow, ModelVersionRow
from voxelworks.db import Database, now
from voxelworks.errors import (
    InvalidModel,
    InvalidParams,
    ModelNotFound,
    NotFound,
    TargetExists,
    VoxelworksError,
)
from voxelworks.protocol.installed_models import list_installed
from voxelworks.protocol.models import ModelFacts
from voxelworks.protocol.people import Principal
from voxelworks.protocol.places import DATASET_NAME, MODEL, ORGANIZATION_ID, Places, model_parts, model_place
from voxelworks.protocol.views import ModelVersionView, ModelView

COMMENT_LENGTH_MAX = 2000
SHARES_MAX = 200
_NAME_LENGTH_MAX = 128
_DOOMED_PREFIX = ".deleting-"
_VERSIONED = re.compile(r"(.+)@([1-9][0-9]{0,8})")
_organizations = table("organizations", column("id", Text))  # their package is not imported here
_logger = logging.getLogger(__name__)


def list_models(session: Session, *, by: Principal, places: Places) -> tuple[ModelView, ...]:
    """Give the models that somebody can use by name: own ones, then shared ones, then installed ones."""
    rows = session.scalars(select(ModelRow).where(_is_visible(by)).order_by(ModelRow.name, ModelRow.id)).all()
    found = sorted(_views(session, rows, by), key=lambda view: view.organization_id != by.organization_id)
    return (*found, *(item.view for item in list_installed(places.model_roots)))


def find_model(session: Session, ref: str, *, by: Principal, places: Places) -> ModelView:
    """Find a model by its name in the organization that asks, by its id, or by its name among the installed ones.

    Raises
    ------
    ModelNotFound
        Also for what others keep to themselves.
    """
    is_own = ModelRow.organization_id == by.organization_id
    for is_it in (is_own & (ModelRow.name == ref), (ModelRow.id == ref) & _is_visible(by)):
        if found := _views(session, session.scalars(select(ModelRow).where(is_it)).all(), by):
            return found[0]
    for installed in list_installed(places.model_roots):
        if ref in (installed.name, installed.id):
            return installed.view
    raise ModelNotFound(f"there is no model {ref!r}; see the list of models for the names")


def find_model_version(
    session: Session, ref: str, *, by: Principal, places: Places
) -> tuple[ModelView, ModelVersionView]:
    """Find a version of a model: `NAME@2`, or the newest of `NAME`; errors as of `find_model`."""
    named = _VERSIONED.fullmatch(ref)
    name, number = (named[1], int(named[2])) if named else (ref, None)
    model = find_model(session, name, by=by, places=places)
    version = model.version(number)
    if version is None:
        there = ", ".join(str(item.number) for item in model.versions)
        raise ModelNotFound(f"model {model.name!r} has no version {number}; it has {there}")
    return model, version


def find_model_by_place(session: Session, place: str) -> ModelView | None:
    """Find the model that has a version at a place, whoever asks; None if that version is gone."""
    organization_id, folder, number = model_parts(place)
    rows = session.scalars(
        select(ModelRow).where(ModelRow.organization_id == organization_id, ModelRow.folder == folder)
    ).all()
    return next((view for view in _views(session, rows, None) if view.version(number) is not None), None)


def pinned_model(model: ModelView, version: ModelVersionView, *, organization_id: str) -> str:
    """Name a version so that it is the same one later: newer versions may come, and of others only the id is known."""
    if model.is_installed:
        return model.name
    return f"{model.name if model.organization_id == organization_id else model.id}@{version.number}"


def new_model_place(
    session: Session, name: str, *, organization_id: str, reserved: Iterable[str], places: Places
) -> str:
    """Give the place for a new version of a model, or for the first one.

    Parameters
    ----------
    reserved
        Places that jobs of the organization are making models at.
    places
        Of the server: what lies under a number that is not known is not written over.

    Raises
    ------
    TargetExists
        If the name was that of another model, whose files lie under it.
    """
    of_organization = ModelRow.organization_id == organization_id
    row = session.scalar(select(ModelRow).where(of_organization, ModelRow.name == name))
    if row is None:
        other = session.scalar(select(ModelRow).where(of_organization, ModelRow.folder == name))
        if other is not None:
            raise TargetExists(
                f"the name {name!r} is taken (the files of {other.name!r} lie under it); choose another name"
            )
    folder, last = (name, 0) if row is None else (row.folder, row.last_number)
    taken = [
        number
        for owner, other, number in map(model_parts, reserved)
        if (owner, other) == (organization_id, folder)
    ]
    numbers = (model_place(organization_id, folder, number) for number in count(max([last, *taken]) + 1))
    return next(place for place in numbers if not Path(places.locate(place)).exists())


def register_model(
    session: Session,
    place: str,
    facts: ModelFacts,
    *,
    user_id: str | None,
    size_bytes: int,
    made_by_job: str | None,
) -> ModelView:
    """Enter a version whose files are there. Repeating changes nothing.

    If another model has taken the name meanwhile, a number is appended: what was published must be found.
    """
    organization_id, folder, number = model_parts(place)
    at_ms = now(session)
    row = _lock_by_folder(session, organization_id, folder)
    while row is None:
        made = ModelRow(
            id=secrets.token_hex(8), organization_id=organization_id, name=_free_name(session, organization_id, folder),
            folder=folder, comment="", user_id=user_id, last_number=0, created_ms=at_ms, updated_ms=at_ms,
        )  # fmt: skip
        row = made if _can_add(session, made) else _lock_by_folder(session, organization_id, folder)
    if session.get(ModelVersionRow, (row.id, number)) is None:
        session.add(
            ModelVersionRow(
                model_id=row.id, number=number, organization_id=organization_id, facts=facts.model_dump(mode="json"),
                size_bytes=size_bytes, user_id=user_id, made_by_job=made_by_job, created_ms=at_ms, is_purging=False,
            )
        )  # fmt: skip
        row.last_number, row.updated_ms = max(row.last_number, number), at_ms
        session.flush()
    (view,) = _views(session, [row], None)
    return view


def change_model(
    session: Session, model_id: str, *, by: Principal, name: str | None = None, comment: str | None = None
) -> ModelView:
    """Rename a model, or say something else about it. Its files stay where they are.

    Raises
    ------
    ModelNotFound
    InvalidParams
        If the name cannot be one, or the comment is too long.
    TargetExists
        If the name is taken.
    """
    row = _lock_own(session, model_id, by)
    if comment is not None:
        comment = _checked_comment(comment)
        row.comment, row.updated_ms = comment, now(session)
    if name is not None and name != row.name:
        _rename(session, row, name)
    session.flush()
    (view,) = _views(session, [row], by)
    return view


def share_model(
    session: Session, model_id: str, organizations: Collection[str], *, by: Principal
) -> ModelView:
    """Let other organizations use a model, and none but these.

    Raises
    ------
    ModelNotFound
    NotFound
        If there is no such organization.
    """
    row = _lock_own(session, model_id, by)
    wanted = set(organizations) - {by.organization_id}
    named = [item for item in wanted if ORGANIZATION_ID.fullmatch(item)]
    known = set(session.scalars(select(_organizations.c.id).where(_organizations.c.id.in_(named))))
    if len(wanted) > SHARES_MAX or known != wanted:
        unknown = sorted(wanted - known) or sorted(wanted)
        raise NotFound(f"there is no organization {unknown[0]!r}; give the short names of organizations")
    session.execute(delete(ModelShareRow).where(ModelShareRow.model_id == row.id))
    session.add_all(ModelShareRow(model_id=row.id, organization_id=item) for item in sorted(wanted))
    row.updated_ms = now(session)
    session.flush()
    (view,) = _views(session, [row], by)
    return view


def delete_model(session: Session, model_id: str, *, by: Principal, number: int | None = None) -> None:
    """Delete a version of a model, or all. Whoever calls this has seen that no job uses it.

    Raises
    ------
    ModelNotFound
    """
    row = _lock_own(session, model_id, by)
    versions = [
        item for item in _versions(session, [row.id]) if not item.is_purging and number in (None, item.number)
    ]
    if not versions:
        raise ModelNotFound(f"model {row.name!r} has no version {number}; see its page for those that it has")
    for version in versions:
        version.is_purging = True
    row.updated_ms = now(session)
    session.flush()
    if all(item.is_purging for item in _versions(session, [row.id])):
        session.execute(delete(ModelShareRow).where(ModelShareRow.model_id == row.id))
        row.comment = ""


def purge_models(database: Database, *, places: Places) -> int:
    """Remove the files of deleted versions; give how many went. What cannot be removed now is tried again later."""
    with database.read_session() as session:
        doomed = [
            (row.id, version.number, model_place(row.organization_id, row.folder, version.number))
            for version, row in session.execute(
                select(ModelVersionRow, ModelRow)
                .join(ModelRow, ModelRow.id == ModelVersionRow.model_id)
                .where(ModelVersionRow.is_purging)
            )
        ]
    gone = [(model_id, number) for model_id, number, place in doomed if _has_removed(place, places)]
    if not gone:
        return 0
    with database.session() as session:
        for model_id, number in gone:
            session.execute(
                delete(ModelVersionRow).where(
                    ModelVersionRow.model_id == model_id, ModelVersionRow.number == number,
                    ModelVersionRow.is_purging,
                )
            )  # fmt: skip
        left = select(ModelVersionRow.model_id)
        ids = {model_id for model_id, _ in gone}
        session.execute(delete(ModelRow).where(ModelRow.id.in_(ids), ModelRow.id.not_in(left)))
    return len(gone)


def require_model(session: Session, place: str, *, organization_id: str) -> None:
    """Refuse the place of a model that an organization may not use, or not any more. That of a new one passes.

    Raises
    ------
    ModelNotFound
    """
    owner, folder, number = model_parts(place)
    row = session.scalar(select(ModelRow).where(ModelRow.organization_id == owner, ModelRow.folder == folder))
    version = None if row is None else session.get(ModelVersionRow, (row.id, number))
    is_there = version is not None and not version.is_purging
    if owner == organization_id and row is not None and is_there:
        return
    is_shared = row is not None and session.get(ModelShareRow, (row.id, organization_id)) is not None
    if not (is_there and is_shared):
        raise ModelNotFound(
            f"the model {folder!r}, version {number}, is not there any more; choose another one"
        )


def known_models(session: Session) -> frozenset[tuple[str, str, int]]:
    """Give organization, folder and number of every version that is known."""
    rows = session.execute(
        select(ModelRow.organization_id, ModelRow.folder, ModelVersionRow.number).join(
            ModelVersionRow, ModelVersionRow.model_id == ModelRow.id
        )
    )
    return frozenset((organization_id, folder, number) for organization_id, folder, number in rows)


def _views(session: Session, rows: Sequence[ModelRow], by: Principal | None) -> list[ModelView]:
    """Give the views of models, without those of which no version is left.

    Versions whose facts cannot be used (any more) are left out, and logged: one of them shall not hide all models.
    """
    ids = [row.id for row in rows]
    models = {row.id: row for row in rows}
    versions: dict[str, list[ModelVersionView]] = {}
    for version in _versions(session, ids):
        if version.is_purging:
            continue
        try:
            view = _version_view(models[version.model_id], version)
        except InvalidModel as error:
            _logger.warning("a model is left out: %s", error)
            continue
        versions.setdefault(version.model_id, []).append(view)
    shares: dict[str, list[str]] = {}
    for share in session.scalars(select(ModelShareRow).where(ModelShareRow.model_id.in_(ids))):
        shares.setdefault(share.model_id, []).append(share.organization_id)
    return [
        ModelView(
            id=row.id, name=row.name, organization_id=row.organization_id, comment=row.comment, user_id=row.user_id,
            created_ms=row.created_ms, updated_ms=row.updated_ms,
            shared_with=tuple(sorted(shares.get(row.id, ())))
            if by is not None and by.organization_id == row.organization_id
            else (),
            versions=tuple(versions[row.id]),
        )
        for row in rows
        if row.id in versions
    ]  # fmt: skip


def _versions(session: Session, ids: Sequence[str]) -> Sequence[ModelVersionRow]:
    """Give the versions of models, newest first, with those whose files are being removed."""
    return session.scalars(
        select(ModelVersionRow)
        .where(ModelVersionRow.model_id.in_(ids))
        .order_by(ModelVersionRow.model_id, ModelVersionRow.number.desc())
    ).all()


def _version_view(row: ModelRow, version: ModelVersionRow) -> ModelVersionView:
    return ModelVersionView(
        number=version.number, place=model_place(row.organization_id, row.folder, version.number),
        facts=ModelFacts.parse(version.facts, what=f"{row.name}@{version.number}"), size_bytes=version.size_bytes,
        user_id=version.user_id, made_by_job=version.made_by_job, created_ms=version.created_ms,
    )  # fmt: skip


def _is_visible(by: Principal) -> ColumnElement[bool]:
    shared = select(ModelShareRow.model_id).where(ModelShareRow.organization_id == by.organization_id)
    return or_(ModelRow.organization_id == by.organization_id, ModelRow.id.in_(shared))


def _lock_own(session: Session, model_id: str, by: Principal) -> ModelRow:
    row = session.scalar(
        select(ModelRow)
        .where(ModelRow.id == model_id, ModelRow.organization_id == by.organization_id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )
    if row is None or all(version.is_purging for version in _versions(session, [row.id])):
        raise ModelNotFound(f"there is no model {model_id!r} of your organization; see the list of models")
    return row


def _lock_by_folder(session: Session, organization_id: str, folder: str) -> ModelRow | None:
    return session.scalar(
        select(ModelRow)
        .where(ModelRow.organization_id == organization_id, ModelRow.folder == folder)
        .with_for_update(),
        execution_options={"populate_existing": True},
    )


def _checked_comment(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if len(text) > COMMENT_LENGTH_MAX:
        raise InvalidParams(
            f"the comment has {len(text)} characters, and at most {COMMENT_LENGTH_MAX} are kept"
        )
    if not all(letter.isprintable() or letter in "\n\t" for letter in text):
        raise InvalidParams("the comment holds characters that cannot be shown; leave them out")
    return text


def _rename(session: Session, row: ModelRow, name: str) -> None:
    if not DATASET_NAME.fullmatch(name):
        raise InvalidParams(
            f"{name!r} is not a model name; use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    taken = f"there is already a model {name!r}; choose another name"
    other = select(ModelRow.id).where(
        ModelRow.organization_id == row.organization_id, ModelRow.folder == name, ModelRow.id != row.id
    )
    if session.scalar(other) is not None:  # its next version could not be told from one of that model
        raise TargetExists(taken)
    try:
        with session.begin_nested():
            row.name, row.updated_ms = name, now(session)
            session.flush()
    except IntegrityError as error:
        session.refresh(row)
        raise TargetExists(taken) from error


def _free_name(session: Session, organization_id: str, name: str) -> str:
    taken = set(session.scalars(select(ModelRow.name).where(ModelRow.organization_id == organization_id)))
    suffixes = ("" if number == 1 else f"-{number}" for number in count(1))
    names = (name[: _NAME_LENGTH_MAX - len(suffix)] + suffix for suffix in suffixes)
    return next(item for item in names if item not in taken)


def _can_add(session: Session, row: ModelRow) -> bool:
    """Insert a row unless another transaction was first with its name or folder."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def _has_removed(place: str, places: Places) -> bool:
    """Remove the files of a version, and the folder of its model if nothing else is in it."""
    assert place.startswith(MODEL), "of others nothing is removed"
    try:
        folder = Path(places.locate(place))
        doomed = folder.with_name(f"{_DOOMED_PREFIX}{folder.name}")
        if folder.exists():
            folder.rename(doomed)  # in one step: nobody shall open half of it
        if doomed.exists():
            shutil.rmtree(doomed)
        if folder.parent.exists() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    except (OSError, VoxelworksError) as error:
        _logger.warning("the files of %s stay for now: %s", place, error)
        return False
    return True
