"""How a job's process reads its params and tells its errors."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from voxelworks.errors import BlockFailed, Cancelled, Interrupted, LayerNotFound, StorageFailed, TimedOut
from voxelworks.worker.child import describe, parse
from voxelworks.worker.spec import JobSpec
from voxelworks.workflows import get_workflow


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "outcome", "failure_class", "code"),
    [
        (LayerNotFound("no layer"), "failed", "user_input", "layer-not-found"),
        (StorageFailed("no answer"), "failed", "infrastructure", "storage-failed"),
        (Cancelled("cancelled"), "cancelled", "cancelled", "cancelled"),
        (Interrupted("stopped"), "interrupted", "infrastructure", "interrupted"),
        (TimedOut("too long"), "failed", "timed_out", "timed-out"),
        (MemoryError(), "failed", "resources", "resources-exceeded"),
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "resources", "disk-full"),
        (OSError(errno.EIO, "Input/output error"), "failed", "infrastructure", "storage-failed"),
        (OSError(errno.ENOENT, "No such file"), "failed", "program_error", "program-error"),
        (ZeroDivisionError("division by zero"), "failed", "program_error", "program-error"),
        (BlockFailed("block 3"), "failed", "program_error", "block-failed"),
        (caused(BlockFailed("block 3"), MemoryError()), "failed", "resources", "resources-exceeded"),
        (caused(BlockFailed("block 3"), StorageFailed("gone")), "failed", "infrastructure", "storage-failed"),
    ],
)
def test_an_error_is_classified_by_itself_and_its_causes(
    error: BaseException, outcome: str, failure_class: str, code: str
) -> None:
    told = describe(error)
    assert (told.outcome, told.failure_class, told.code) == (outcome, failure_class, code)


def test_a_foreign_error_is_told_with_its_type() -> None:
    assert describe(KeyError("scale")).message == "KeyError: 'scale'"
    assert describe(MemoryError()).message == "MemoryError"


def test_params_from_before_a_change_of_meaning_are_upgraded() -> None:
    newer = replace(
        get_workflow("downsample"),
        version=2,
        upgrade=lambda old: {"layer": old["layer"].replace("old", "new")},
    )
    old, new = (
        JobSpec(
            workflow="downsample", version=version, params={"layer": "old/color"}, places={}, work_key="job", attempt=1,
            cluster=None, memory_bytes_max=1, settings={},
        )
        for version in (1, 2)
    )  # fmt: skip
    assert parse(newer, old) == newer.parse({"layer": "new/color"})
    assert parse(newer, new) == newer.parse({"layer": "old/color"})
