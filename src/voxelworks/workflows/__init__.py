"""Workflows: one file each, from which the command, the form, the API route and the Python function derive."""

from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.workflows._declare import (
    FREE,
    Cost,
    LayerAddition,
    NewDataset,
    Outcome,
    ParamField,
    Params,
    Workflow,
    parse_model,
    workflow,
)
from voxelworks.workflows._job import Job, Reporter, StopFlag
from voxelworks.workflows._refs import (
    DatasetRef,
    LayerRef,
    LocalResolver,
    NewDatasetRef,
    PlacesResolver,
    Ref,
    Resolver,
    SegmentationRef,
    SourceRef,
    check_name,
    references,
)
from voxelworks.workflows._registry import get_workflow, workflows
from voxelworks.workflows._run import run, run_attempt, run_locally

__all__ = [
    "FREE",
    "Box",
    "Cost",
    "DatasetRef",
    "Job",
    "LayerAddition",
    "LayerRef",
    "LocalResolver",
    "Mag",
    "NewDataset",
    "NewDatasetRef",
    "Outcome",
    "ParamField",
    "Params",
    "PlacesResolver",
    "Ref",
    "Reporter",
    "Resolver",
    "SegmentationRef",
    "SourceRef",
    "StopFlag",
    "VoxelSize",
    "Workflow",
    "check_name",
    "get_workflow",
    "parse_model",
    "references",
    "run",
    "run_attempt",
    "run_locally",
    "workflow",
    "workflows",
]
