"""Filters of the list of jobs, as they stand in an address: the same for pages and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from fastapi import Depends, Query
from sqlalchemy.orm import Session

from voxelworks import accounts, jobs
from voxelworks.db import now
from voxelworks.errors import FailureClass, InvalidInput
from voxelworks.protocol.messages import JobState
from voxelworks.protocol.people import Principal
from voxelworks.protocol.views import JobPage
from voxelworks.server.context import Context

Period = Literal["today", "7d", "30d"]
PERIOD_DAYS: dict[Period, int] = {"today": 1, "7d": 7, "30d": 30}
Name = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True)
class JobFilters:
    """What is asked for besides the state. Empty: anything."""

    workflow: str = ""
    owner: str = ""
    """Id or mail address."""
    dataset: str = ""
    group: str = ""
    failure: FailureClass | Literal[""] = ""
    period: Period | Literal[""] = ""
    since: str = ""
    """A day, or a moment with its distance from UTC."""
    until: str = ""
    """The last day, or the moment before which."""
    zone: str = ""
    """IANA name of the time zone in which days begin; by default that of the organization."""
    charged: bool = False
    text: str = ""
    mine: bool = False

    @property
    def given(self) -> dict[str, str]:
        """What is not empty, by the name in the address; the zone only where it matters."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if not (self.period or self.since or self.until):
            values["zone"] = ""
        return {name: "true" if value is True else value for name, value in values.items() if value}

    def list(
        self,
        context: Context,
        who: Principal,
        *,
        states: Sequence[JobState] = (),
        after: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """List the jobs that somebody may see.

        Raises
        ------
        InvalidInput
            If a filter cannot be read.
        """
        with context.database.read_session() as session:
            since_ms, until_ms = self._span(session, who)
            return jobs.list_jobs(
                session, by=who, settings=context.settings, states=states, workflow=self.workflow or None,
                owner=self.owner or None, dataset=self.dataset or None, group=self.group or None,
                failure_class=self.failure or None, since_ms=since_ms, until_ms=until_ms, is_charged=self.charged,
                text=self.text, after=after, limit=limit, everybody=not self.mine,
            )  # fmt: skip

    def _span(self, session: Session, who: Principal) -> tuple[int | None, int | None]:
        """Give the moments from which on and before which jobs were submitted, in ms."""
        if not (self.period or self.since or self.until):
            return None, None
        name = self.zone or accounts.find_organization(session, who.organization_id).zone
        zone = ZoneInfo(accounts.check_zone(name))
        starts = [_moment(self.since, zone)] if self.since else []
        if self.period:
            today = datetime.fromtimestamp(now(session) / 1000, zone).date()
            starts.append(_midnight(today - timedelta(days=PERIOD_DAYS[self.period] - 1), zone))
        return max(starts, default=None), _moment(self.until, zone, is_end=True) if self.until else None


async def _read(
    workflow: Name = "",
    owner: Annotated[Name, Query(description="Id or mail address of who submitted it.")] = "",
    dataset: Annotated[
        Name, Query(description="Name or id of a dataset that it reads, changes or makes.")
    ] = "",
    group: Name = "",
    failure: Annotated[FailureClass | Literal[""], Query(description="Why it failed.")] = "",
    period: Annotated[Period | Literal[""], Query(description="Submitted today, or in the last days.")] = "",
    since: Annotated[
        Name, Query(description="Submitted on this day or later, or from this moment on (ISO 8601).")
    ] = "",
    until: Annotated[Name, Query(description="Submitted on this day or before, or before this moment.")] = "",
    zone: Annotated[Name, Query(description="Time zone of the days; by default the organization's.")] = "",
    charged: Annotated[bool, Query(description="Only what was charged for.")] = False,
    text: Annotated[str, Query(max_length=1000, description="Words that must all be found in a job.")] = "",
    mine: bool = False,
) -> JobFilters:
    return JobFilters(
        workflow, owner.strip(), dataset.strip(), group.strip(), failure, period, since.strip(), until.strip(), zone,
        charged, text.strip(), mine,
    )  # fmt: skip


Filters = Annotated[JobFilters, Depends(_read)]


def _moment(text: str, zone: ZoneInfo, *, is_end: bool = False) -> int:
    """Read a day or a moment, in ms; of a day give its begin, or its end."""
    try:
        if len(text) == len("2026-01-31"):
            day = date.fromisoformat(text)
            return _midnight(day + timedelta(days=1) if is_end else day, zone)
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone)
        return round(at.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{text!r} is not a date; write it as 2026-01-31") from error


def _midnight(day: date, zone: ZoneInfo) -> int:
    # The day begins later where the clock is put forward at midnight: the first moment that is there.
    begin = datetime(day.year, day.month, day.day, tzinfo=zone)
    return round(begin.astimezone(UTC).timestamp() * 1000)
