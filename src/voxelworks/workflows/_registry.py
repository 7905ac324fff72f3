"""All workflows that are installed: ours and those of other packages, by the entry point `voxelworks.workflows`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from voxelworks.errors import UnknownWorkflow
from voxelworks.workflows._declare import ForeignName, Workflow


@cache
def workflows() -> dict[str, Workflow]:
    """Give every workflow by name. Loads declarations only: array libraries are imported when a job runs.

    Raises
    ------
    RuntimeError
        If a package declares one that cannot be used: an operator learns it when a server starts, not a user later.
    """
    found: dict[str, Workflow] = {}
    for entry in sorted(entry_points(group="voxelworks.workflows"), key=lambda entry: entry.name):
        declared = _declared(entry)
        if declared.name in found:
            raise RuntimeError(f"two installed packages declare the workflow {declared.name!r}")
        found[declared.name] = declared
    return found


def _declared(entry: EntryPoint) -> Workflow:
    package = entry.dist.name if entry.dist is not None else entry.module
    try:
        declared: Workflow = entry.load().__workflow__
        if package != __package__.partition(".")[0]:
            _ = declared.fields  # for which dialogs have no inputs, or options no way to write them
    except Exception as error:
        raise RuntimeError(
            f"the workflow {entry.name!r} of the installed package {package!r} cannot be used: {error}; mend the "
            "package, or uninstall it"
        ) from error
    return declared


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
