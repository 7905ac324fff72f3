"""Failures that are alike, shown as one (R25)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from voxelworks.db import now
from voxelworks.errors import FailureClass
from voxelworks.jobs._leases import milliseconds
from voxelworks.jobs._submission import digest
from voxelworks.jobs._tables import JobRow
from voxelworks.protocol.views import FailureGroup

LOOKED_AT_MAX = 20_000
"""Failures that are looked at, the latest ones: more take time and tell nothing new."""
_EXAMPLES = 5
_MESSAGE_MAX = 1000
_QUOTED = re.compile(r"""["][^"]*["]|`[^`]*`|(?<!\w)'[^']*'(?!\w)""")
_VARYING = re.compile(r"[\d/\\…]")


def failures(
    session: Session,
    *,
    since_s: float = 7 * 86_400.0,
    organization_id: str | None = None,
    with_repeated: bool = False,
    limit: int = 100,
) -> tuple[FailureGroup, ...]:
    """Group the failed jobs of all organizations, or of one, by what went wrong; the most frequent first.

    Jobs whose results could not be published count too.

    Parameters
    ----------
    with_repeated
        Also those that were repeated since, which need nobody any more.
    """
    found = _failed(session, since_s, organization_id, with_repeated=with_repeated)
    groups = [_group(alike) for alike in _together(found).values()]
    groups.sort(key=lambda group: (-group.count, group.workflow, group.code, -group.last_ms))
    return tuple(groups[:limit])


def failed_alike(session: Session, group_id: str, *, since_s: float) -> tuple[str, ...]:
    """Give the ids of all jobs of a group of `failures`, the latest first."""
    return tuple(one.id for one in _together(_failed(session, since_s)).get(group_id, ()))


def without_what_varies(message: str) -> str:
    """Leave out of a message what differs between equal defects: quoted names, paths, numbers and ids."""
    words = _QUOTED.sub("…", message[:_MESSAGE_MAX]).split()
    kept = ("…" if _VARYING.search(word) else word for word in words)
    return " ".join(word for word, alike in groupby(kept) for word in ([word] if word == "…" else alike))


@dataclass(frozen=True)
class _Failed:
    """A job that failed, or whose result could not be published."""

    id: str
    organization_id: str
    workflow: str
    failure_class: FailureClass
    code: str
    message: str
    at_ms: int

    @property
    def group_id(self) -> str:
        return _group_id(self.failure_class, self.code, self.workflow, self.message)


@lru_cache(maxsize=LOOKED_AT_MAX)
def _group_id(failure_class: FailureClass, code: str, workflow: str, message: str) -> str:
    return digest([failure_class, code, workflow, without_what_varies(message)])[:16]


def _failed(
    session: Session, since_s: float, organization_id: str | None = None, *, with_repeated: bool = False
) -> list[_Failed]:
    """Give the failures since then, the latest first."""
    since_ms = now(session) - milliseconds(since_s)
    is_unpublished = JobRow.publication == "failed"
    wanted: list[ColumnElement[bool]] = [
        or_(is_unpublished, and_(JobRow.state == "failed", JobRow.ended_ms > since_ms)),
        JobRow.updated_ms > since_ms,  # what has an index
    ]
    if organization_id is not None:
        wanted.append(JobRow.organization_id == organization_id)
    if not with_repeated:
        later = aliased(JobRow)
        wanted.append(~exists().where(later.retried_from == JobRow.id))
    rows = session.execute(
        select(
            JobRow.id, JobRow.organization_id, JobRow.workflow, JobRow.failure_class, JobRow.code,
            func.substr(func.coalesce(JobRow.publish_error, JobRow.message, ""), 1, _MESSAGE_MAX).label("message"),
            JobRow.ended_ms, JobRow.updated_ms, is_unpublished.label("is_unpublished"),
        )
        .where(*wanted)
        .order_by(JobRow.updated_ms.desc(), JobRow.id)
        .limit(LOOKED_AT_MAX)
    )  # fmt: skip
    return [
        _Failed(
            row.id, row.organization_id, row.workflow, row.failure_class, row.code, row.message, row.ended_ms
        )
        if not row.is_unpublished
        else _Failed(
            row.id, row.organization_id, row.workflow, "infrastructure", "not-published", row.message, row.updated_ms
        )
        for row in rows
    ]  # fmt: skip


def _together(found: Sequence[_Failed]) -> dict[str, list[_Failed]]:
    groups: defaultdict[str, list[_Failed]] = defaultdict(list)
    for one in found:
        groups[one.group_id].append(one)
    return groups


def _group(alike: Sequence[_Failed]) -> FailureGroup:
    latest = alike[0]
    return FailureGroup(
        id=latest.group_id, failure_class=latest.failure_class, code=latest.code, workflow=latest.workflow,
        message=latest.message, count=len(alike), organization_count=len({one.organization_id for one in alike}),
        last_ms=max(one.at_ms for one in alike), job_ids=tuple(one.id for one in alike[:_EXAMPLES]),
    )  # fmt: skip
