"""Months in the time zone of an organization."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from voxelworks.errors import InvalidInput


@dataclass(frozen=True)
class Period:
    """A month: from its first instant to that of the next month, which is no longer in it."""

    key: str
    """`YYYY-MM`."""
    starts_ms: int
    ends_ms: int


def period_at(at_ms: int, zone: str) -> Period:
    """Give the month that an instant is in.

    Parameters
    ----------
    at_ms
        Milliseconds since 1970 in UTC.
    zone
        IANA name, such as `Europe/Berlin`.

    Raises
    ------
    InvalidInput
        If there is no such zone.
    """
    clock = find_zone(zone)
    local = datetime.fromtimestamp(at_ms // 1000, clock)
    period = _month(local.year, local.month, clock)
    # Where clocks were set back just after midnight (St. John's until 2011), the last hour of a month came again after
    # the next month had begun. A month begins once.
    return period if at_ms < period.ends_ms else _month(*_next(local.year, local.month), clock)


def find_zone(zone: str) -> tzinfo:
    """Find a time zone by its IANA name.

    Raises
    ------
    InvalidInput
    """
    if zone == "UTC":
        return UTC  # there even where the system has no time zone data
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"{zone!r} is not a known time zone; write its IANA name, such as Europe/Berlin or UTC"
        ) from error


def _month(year: int, month: int, clock: tzinfo) -> Period:
    return Period(
        f"{year:04}-{month:02}", _first_ms(year, month, clock), _first_ms(*_next(year, month), clock)
    )


def _first_ms(year: int, month: int, clock: tzinfo) -> int:
    # A first midnight that clocks skip or repeat counts with the offset before: that is the instant of the change.
    return int(datetime(year, month, 1, tzinfo=clock).timestamp()) * 1000


def _next(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)
