"""A paid workflow that the tests of the queue install in their own process: they never run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from voxelworks import credits
from voxelworks.testing.queues import Queue
from voxelworks.workflows import (
    Box,
    Job,
    LayerAddition,
    LayerMag,
    NewDataset,
    NewDatasetRef,
    Params,
    PerGigavoxel,
    SegmentationRef,
    workflow,
    workflows,
)

CREDITS_ON = {"credits_enabled": True, "monthly_free_credits": 0}
PRICE = 2_000
"""Millicredits that a job of `segment` costs: 2 gigavoxels at 1 credit."""


class SegmentParams(Params):
    """What to segment."""

    layer: SegmentationRef
    """Layer to look at."""

    mag: LayerMag | None = None
    """Mag to work in."""

    box: Box | None = None
    """Box to work in; by default the whole layer."""


class MakeParams(SegmentParams):
    """What to segment, and where to put it."""

    target: NewDatasetRef
    """Dataset to make."""


class Segmented(LayerAddition):
    """The layer was segmented."""


@workflow(
    version=1, cost=PerGigavoxel("infer_neurons", of=lambda _params, _inputs: 2 * 10**9), group="Test",
    example={"layer": "demo/segmentation"},
)  # fmt: skip
def segment(params: SegmentParams, job: Job) -> Segmented:
    """Segment a layer."""
    raise AssertionError("the tests of the queue run nothing")


@workflow(
    version=1, cost=PerGigavoxel("infer_neurons", of="mag"), group="Test",
    example={"layer": "demo/segmentation", "target": "made"},
)  # fmt: skip
def make_segmented(params: MakeParams, job: Job) -> NewDataset:
    """Segment a layer into a new dataset, priced by the voxels of the layer."""
    raise AssertionError("the tests of the queue run nothing")


@contextmanager
def installed() -> Iterator[None]:
    """Let the workflows be there for a while."""
    known = workflows()
    declared = {
        item.__workflow__.name: item.__workflow__  # type: ignore[attr-defined]
        for item in (segment, make_segmented)
    }
    known.update(declared)
    try:
        yield
    finally:
        for name in declared:
            del known[name]


def with_credits(queue: Queue, amount: int = 1_000_000, **settings: object) -> Queue:
    """Switch credits on, and give the organization `local` an amount in millicredits."""
    chosen = queue.settings.model_copy(update={**CREDITS_ON, **settings})
    paying = replace(queue, settings=chosen)
    if amount:
        paying.call(credits.grant, "local", amount, kind="paid", who="user:local")
    return paying


def available(queue: Queue) -> tuple[int, int]:
    """Give what `local` can spend, and what is held."""
    with queue.database.read_session() as session:
        balance = credits.balance(session, "local")
    return balance.available, balance.held


def books_differ(queue: Queue) -> tuple[object, ...]:
    """Give where the books do not add up."""
    with queue.database.read_session() as session:
        return credits.check(session)
