"""Months follow each other without gap or overlap, in every time zone of the world."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voxelworks.credits._periods import find_zone, period_at
from voxelworks.errors import InvalidInput

ZONES = sorted(available_timezones() - {"localtime", "Factory"})
zones = st.sampled_from(ZONES)
instants = st.integers(0, 4_000_000_000_000)  # until 2096


def _ms(text):
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@given(at_ms=instants, zone=zones)
# The clocks of St. John's went back at 00:01 on the first of November 2009: the last hour of October came twice.
@example(at_ms=_ms("2009-11-01T02:30:30+00:00"), zone="America/St_Johns")
@example(at_ms=_ms("2009-11-01T02:31:00+00:00"), zone="America/St_Johns")
@example(at_ms=_ms("2009-11-01T03:00:00+00:00"), zone="America/St_Johns")
# Midnight of the first of October 2017 was skipped.
@example(at_ms=_ms("2017-10-01T04:00:00+00:00"), zone="America/Asuncion")
def test_an_instant_is_in_its_month(at_ms, zone):
    period = period_at(at_ms, zone)
    assert period.starts_ms <= at_ms < period.ends_ms
    assert 27 < (period.ends_ms - period.starts_ms) / 86_400_000 < 32


@given(at_ms=instants, zone=zones)
def test_months_follow_each_other(at_ms, zone):
    period = period_at(at_ms, zone)
    following, before = period_at(period.ends_ms, zone), period_at(period.starts_ms - 1, zone)
    assert (following.starts_ms, before.ends_ms) == (period.ends_ms, period.starts_ms)
    assert before.key < period.key < following.key
    assert period_at(period.ends_ms - 1, zone) == period == period_at(period.starts_ms, zone)


@pytest.mark.parametrize(
    ("zone", "key", "starts", "ends"),
    [
        ("UTC", "2028-02", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        ("Europe/Berlin", "2026-03", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
        ("Europe/Berlin", "2026-10", "2026-10-01T00:00+02:00", "2026-11-01T00:00+01:00"),
        ("Pacific/Auckland", "2026-04", "2026-04-01T00:00+13:00", "2026-05-01T00:00+12:00"),
        ("Pacific/Honolulu", "2026-12", "2026-12-01T00:00-10:00", "2027-01-01T00:00-10:00"),
        ("Asia/Kathmandu", "2027-02", "2027-02-01T00:00+05:45", "2027-03-01T00:00+05:45"),
    ],
)
def test_months_begin_at_local_midnight(zone, key, starts, ends):
    for at_ms in (_ms(starts), _ms(ends) - 1):
        period = period_at(at_ms, zone)
        assert (period.key, period.starts_ms, period.ends_ms) == (key, _ms(starts), _ms(ends))


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "a\0b"])
def test_unknown_zones_are_refused(name):
    with pytest.raises(InvalidInput) as refused:
        period_at(0, name)
    assert str(refused.value) == (
        f"{name!r} is not a known time zone; write its IANA name, such as Europe/Berlin or UTC"
    )


def test_utc_needs_no_data_of_the_system():
    assert find_zone("UTC") is UTC
    assert find_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
