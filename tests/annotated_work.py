"""A workflow that takes an annotation, which tests install in their own process: they never run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from voxelworks.workflows import (
    FREE,
    AnnotationRef,
    DatasetRef,
    Job,
    NewDataset,
    NewDatasetRef,
    Params,
    workflow,
    workflows,
)


class ApplyParams(Params):
    """What to apply to what."""

    dataset: DatasetRef
    """Dataset that was annotated."""

    annotation: AnnotationRef
    """Annotation to apply."""

    target: NewDatasetRef
    """Dataset to make."""


@workflow(
    version=1, cost=FREE, group="Test", example={"dataset": "demo", "annotation": "0123456789abcdef", "target": "made"}
)  # fmt: skip
def apply_annotation(params: ApplyParams, job: Job) -> NewDataset:
    """Make a dataset of an annotation."""
    raise AssertionError("the tests of the pages run nothing")


@contextmanager
def installed() -> Iterator[None]:
    """Let the workflow be there for a while."""
    declared = apply_annotation.__workflow__  # type: ignore[attr-defined]
    workflows()[declared.name] = declared
    try:
        yield
    finally:
        del workflows()[declared.name]
