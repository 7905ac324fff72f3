from __future__ import annotations

import pytest

from voxelworks.protocol.views import JobView, WaitView
from voxelworks.server import rendering


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0, "0 s"), (0.3, "under 1 s"), (1, "1 s"), (59.4, "59 s"), (60, "1 min"), (61, "1 min 1 s"),
        (3600, "1 h"), (3725, "1 h 2 min"), (86400 * 3 + 7200, "3 d 2 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_durations_are_said_with_two_units(seconds, text):
    assert rendering.duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (20, 20, "about 20 s left"),
        (50, 56, "50–55 s left"),
        (50, 130, "50 s – 2 min left"),
        (3700, 9000, "1 h – 2 h 30 min left"),
    ],
)
def test_a_remaining_time_is_a_range_in_round_numbers(low, high, text):
    assert rendering.eta(low, high) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**30, "1 GiB"),
        (1023 * 2**20, "1023 MiB"),
    ],
)
def test_sizes_are_said_in_binary_units(count, text):
    assert rendering.bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "59 s ago"), (60, "1 min ago"), (7300, "2 h ago"), (90000, "1 d ago")],
)
def test_ages_are_coarse(seconds, text):
    assert rendering.ago(seconds) == text


def test_times_are_utc():
    assert rendering.moment(0) == "1970-01-01 00:00:00 UTC"
    assert rendering.iso(1500) == "1970-01-01T00:00:01Z"


def test_a_box_is_said_in_voxels_and_in_a_unit_that_suits():
    assert rendering.size_text("5,5,5,520,520,26") == "520 × 520 × 26"
    assert rendering.physical_text("0,0,0,520,520,26", "10,10,40") == "5.2 × 5.2 × 1.04 µm"
    assert rendering.physical_text("0,0,0,10,10,10", "4,4,40") == "40 × 40 × 400 nm"
    assert rendering.physical_text("0,0,0,10,10,10", None) == ""


def test_the_address_of_a_static_file_changes_with_its_content():
    address = rendering.static_url("voxelworks.css")
    assert address.startswith("/static/voxelworks.css?v=")
    assert address != rendering.static_url("voxelworks.js").replace(".js", ".css")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("the queue is paused", "The queue is paused."),
        ("root:scope/a holds nothing; name a folder", "root:scope/a holds nothing; name a folder."),
        ("'a b' is not a name.", "'a b' is not a name."),
    ],
)
def test_a_message_becomes_a_sentence_but_what_was_typed_stays(message, said):
    assert rendering.sentence(message) == said


def test_a_wait_for_the_next_attempt_is_counted_down_by_the_page():
    """The reason that the server gives would change with every second."""
    wait = WaitView(ahead=0, reason="the next attempt begins in 62 s", code="backoff")
    job = JobView.model_construct(available_ms=162_000, as_of_ms=100_000, wait=wait)
    assert rendering.wait_text(job) == (
        'The next attempt begins in <span data-left-s="62.0">1 min 2 s</span>.'
    )
    ahead = wait.model_copy(update={"reason": "2 jobs are ahead", "code": "queue"})
    assert rendering.wait_text(job.model_copy(update={"wait": ahead})) == "2 jobs are ahead."
