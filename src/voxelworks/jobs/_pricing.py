"""What a job costs: the quantity of its workflow, at the price of the list."""

from __future__ import annotations

from dataclasses import dataclass

from voxelworks.geometry import Box, Mag
from voxelworks.jobs._references import Resolved
from voxelworks.workflows import Params, Workflow


@dataclass(frozen=True)
class Priced:
    """A quantity that is charged for."""

    price_name: str
    quantity: int
    """Voxels."""
    region: tuple[Box, Mag] | None = None
    """The box, in voxels of its mag, whose voxels they are; None if they are counted otherwise."""


def priced(declared: Workflow, params: Params, resolved: Resolved) -> Priced | None:
    """Measure a job; None if its workflow is free.

    Raises
    ------
    InvalidInput
        If it cannot be measured before another job has ended.
    """
    if declared.cost.price is None:
        return None
    cost = declared.cost
    region = None if cost.region is None else cost.region(params, resolved)
    return Priced(declared.cost.price, cost.measure(params, resolved), region)
