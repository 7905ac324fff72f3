"""Params that people keep under a name, for themselves or for their organization."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from voxelworks import accounts
from voxelworks.db import now
from voxelworks.errors import InvalidInput, NotFound, TargetExists, VoxelworksError
from voxelworks.jobs._tables import SavedParamsRow
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import SavedParams
from voxelworks.workflows import get_workflow

NAME_LENGTH_MAX = 100
_COUNT_MAX = 1000
"""Most sets of one person in an organization."""
_CHARACTERS_MAX = 64 * 1024
"""Longest set, written as JSON."""


def list_params(session: Session, *, by: Principal, workflow: str | None = None) -> tuple[SavedParams, ...]:
    """Give one's own sets and those that others share, by name.

    Raises
    ------
    NotAllowed
    """
    accounts.require(by, accounts.Action.SEE_OWN_JOBS)
    wanted = select(SavedParamsRow).where(_is_visible(by))
    if workflow is not None:
        wanted = wanted.where(SavedParamsRow.workflow == workflow)
    rows = session.scalars(
        wanted.order_by(SavedParamsRow.workflow, SavedParamsRow.name, SavedParamsRow.created_ms)
    )
    return _views(session, list(rows), by)


def find_params(session: Session, set_id: str, *, by: Principal) -> SavedParams:
    """Give one's own set, or one that is shared.

    Raises
    ------
    NotAllowed
    NotFound
        Also for sets that others keep to themselves.
    """
    accounts.require(by, accounts.Action.SEE_OWN_JOBS)
    return _view(session, _find(session, set_id, by), by)


def save_params(
    session: Session,
    *,
    by: Principal,
    workflow: str,
    name: str,
    params: Mapping[str, Any],
    is_shared: bool = False,
    with_data: bool = False,
) -> SavedParams:
    """Keep params under a name. What is missing is filled in when they are used.

    Parameters
    ----------
    params
    is_shared
        All members of the organization may use them.
    with_data
        Keep what they work on and make too: datasets, layers, boxes, sources. Otherwise that is left out.

    Raises
    ------
    NotAllowed
    InvalidInput
        If a value is wrong, the name cannot be one, or there are too many.
    TargetExists
        If one's own set of this workflow has the name.
    """
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    count = session.scalar(select(func.count()).select_from(SavedParamsRow).where(_is_own(by)))
    if (count or 0) >= _COUNT_MAX:
        raise InvalidInput(f"you keep {count} sets of parameters; delete one that is not needed any more")
    declared, at_ms = get_workflow(workflow), now(session)
    row = SavedParamsRow(
        id=secrets.token_hex(8), organization_id=by.organization_id, user_id=by.user_id, workflow=declared.name,
        name=_checked_name(name), version=declared.version, params=_checked(workflow, params, with_data=with_data),
        is_shared=is_shared, created_ms=at_ms, updated_ms=at_ms,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        raise _is_taken(name) from error
    return _view(session, row, by)


def change_params(
    session: Session,
    set_id: str,
    *,
    by: Principal,
    name: str | None = None,
    is_shared: bool | None = None,
    params: Mapping[str, Any] | None = None,
    with_data: bool = False,
) -> SavedParams:
    """Rename a set, share it or not, or keep other params in it.

    Raises
    ------
    NotAllowed
        If it is somebody else's.
    NotFound
    InvalidInput
    TargetExists
    """
    row = _find_own(session, set_id, by)
    if params is not None:
        row.params, row.version = (
            _checked(row.workflow, params, with_data=with_data),
            get_workflow(row.workflow).version,
        )
    if is_shared is not None:
        row.is_shared = is_shared
    row.updated_ms = now(session)
    try:
        with session.begin_nested():
            row.name = _checked_name(name) if name is not None else row.name
            session.flush()
    except IntegrityError as error:
        raise _is_taken(name or "") from error
    return _view(session, row, by)


def delete_params(session: Session, set_id: str, *, by: Principal) -> None:
    """Forget a set. Those that are shared may be forgotten by whoever may steer the jobs of all, too.

    Raises
    ------
    NotAllowed
    NotFound
    """
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    row = _find(session, set_id, by)
    if row.user_id != by.user_id:
        accounts.require(by, accounts.Action.STEER_ALL_JOBS)
    session.delete(row)
    session.flush()


def _find(session: Session, set_id: str, by: Principal) -> SavedParamsRow:
    row = session.scalar(select(SavedParamsRow).where(SavedParamsRow.id == set_id, _is_visible(by)))
    if row is None:
        raise NotFound(f"there is no set of parameters {set_id!r}; see the list of them")
    return row


def _find_own(session: Session, set_id: str, by: Principal) -> SavedParamsRow:
    accounts.require(by, accounts.Action.SUBMIT_JOB)
    row = _find(session, set_id, by)
    if row.user_id != by.user_id:
        raise NotFound(f"the set of parameters {row.name!r} is of somebody else; save a copy of your own")
    return row


def _is_own(by: Principal) -> ColumnElement[bool]:
    return and_(SavedParamsRow.organization_id == by.organization_id, SavedParamsRow.user_id == by.user_id)


def _is_visible(by: Principal) -> ColumnElement[bool]:
    is_of_all = and_(SavedParamsRow.organization_id == by.organization_id, SavedParamsRow.is_shared)
    return or_(_is_own(by), is_of_all)


def _checked(workflow: str, params: Mapping[str, Any], *, with_data: bool) -> Json:
    declared = get_workflow(workflow)
    declared.check_some(params)
    kept = dict(params) if with_data else declared.without_data(params)
    if len(json.dumps(kept)) > _CHARACTERS_MAX:
        raise InvalidInput(f"the parameters take more than {_CHARACTERS_MAX} characters; keep fewer of them")
    return kept


def _checked_name(name: str) -> str:
    stripped = name.strip()
    if not stripped or len(stripped) > NAME_LENGTH_MAX or not stripped.isprintable():
        raise InvalidInput(
            f"{name[:NAME_LENGTH_MAX]!r} is no name for parameters; give 1 to {NAME_LENGTH_MAX} characters"
        )
    return stripped


def _is_taken(name: str) -> TargetExists:
    return TargetExists(
        f"you keep parameters of this workflow as {name.strip()!r} already; choose another name"
    )


def _views(session: Session, rows: list[SavedParamsRow], by: Principal) -> tuple[SavedParams, ...]:
    owners = accounts.find_users(session, {row.user_id for row in rows})
    return tuple(
        SavedParams(
            id=row.id, workflow=row.workflow, version=row.version, name=row.name, params=_present(row),
            is_shared=row.is_shared, is_own=row.user_id == by.user_id, user_id=row.user_id,
            owner=owners[row.user_id].name if row.user_id in owners else row.user_id,
            created_ms=row.created_ms, updated_ms=row.updated_ms,
        )
        for row in rows
    )  # fmt: skip


def _view(session: Session, row: SavedParamsRow, by: Principal) -> SavedParams:
    [view] = _views(session, [row], by)
    return view


def _present(row: SavedParamsRow) -> Json:
    """Give params as the installed version of their workflow reads them, as far as it does."""
    try:
        declared = get_workflow(row.workflow)
        if declared.version == row.version + 1 and declared.upgrade is not None:
            return declared.upgrade(row.params)
    except (VoxelworksError, KeyError):  # not installed any more; or what it turns over was left out
        pass
    return row.params
