"""A workflow that takes a model, for tests of what is offered before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from voxelworks.workflows import (
    FREE,
    Box,
    Job,
    LayerMag,
    LayerRef,
    ModelRef,
    NewDataset,
    NewDatasetRef,
    NewModel,
    NewModelRef,
    OfTask,
    Params,
    workflow,
    workflows,
)


class SegmentParams(Params):
    """What to segment with what."""

    layer: LayerRef
    """Layer to segment."""

    model: Annotated[ModelRef, OfTask("instances")]
    """Model that finds the objects."""

    target: NewDatasetRef
    """Dataset to make."""

    box: Box | None = None
    """Box to segment."""

    mag: LayerMag | None = None
    """Magnification to segment."""


class TakeParams(Params):
    """Which model to go on with."""

    model: ModelRef
    """Where to begin."""

    target: NewModelRef
    """What it makes."""


@workflow(
    version=1, cost=FREE, group="Test", example={"layer": "demo/color", "model": "mito", "target": "made"},
)  # fmt: skip
def segment_with_model(params: SegmentParams, job: Job) -> NewDataset:
    """Segment a layer with a model."""
    raise AssertionError("the tests run nothing")


@workflow(version=1, cost=FREE, group="Test", example={"model": "mito", "target": "better"})
def take_model(params: TakeParams, job: Job) -> NewModel:
    """Make a model of a model."""
    raise AssertionError("the tests run nothing")


@contextmanager
def installed() -> Iterator[None]:
    """Let the workflows be there for a while."""
    declared = {item.__name__: item.__workflow__ for item in (segment_with_model, take_model)}  # type: ignore[attr-defined]
    workflows().update(declared)
    try:
        yield
    finally:
        for name in declared:
            del workflows()[name]
