"""All workflows that are installed: ours and those of other packages, by the entry point `voxelworks.workflows`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from voxelworks.errors import UnknownWorkflow
from voxelworks.workflows._declare import ForeignName, Workflow


@cache
def workflows() -> dict[str, Workflow]:
    """Give every workflow by name. Loads declarations only: array libraries are imported when a job runs."""
    found: dict[str, Workflow] = {}
    for entry in sorted(entry_points(group="voxelworks.workflows"), key=lambda entry: entry.name):
        declared: Workflow = entry.load().__workflow__
        if declared.name in found:
            raise RuntimeError(f"two installed packages declare the workflow {declared.name!r}")
        found[declared.name] = declared
    return found


def get_workflow(name: str) -> Workflow:
    """Find a workflow by its name or an earlier name.

    Raises
    ------
    UnknownWorkflow
    """
    known = workflows()
    if name in known:
        return known[name]
    for declared in known.values():
        if name in declared.aliases:
            return declared
    raise UnknownWorkflow(f"there is no workflow {name!r}; installed are {', '.join(known)}")


def find_foreign(command: str) -> tuple[Workflow, ForeignName] | None:
    """Find the workflow that a command of WEBKNOSSOS' job protocol stands for; None if none is installed."""
    return next(
        (
            (declared, name)
            for declared in workflows().values()
            for name in declared.foreign
            if name.command == command
        ),
        None,
    )
