"""A job as others would submit it: a command, a piece of Python, a request."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from voxelworks.errors import VoxelworksError
from voxelworks.protocol.messages import Json
from voxelworks.protocol.views import JobView
from voxelworks.server.subjects import find_workflow
from voxelworks.workflows import ParamField, Workflow

_WIDTH = 88
_TOKEN = "$VOXELWORKS_TOKEN"  # noqa: S105 - the name of the variable that holds one


@dataclass(frozen=True)
class Copy:
    """What somebody copies and runs."""

    id: str
    title: str
    text: str


def copies_of(job: JobView, url: str) -> tuple[Copy, ...]:
    """Write a job as a command, as Python and as a request; nothing if its workflow or its params are of the past.

    Parameters
    ----------
    url
        Address of the server, without a slash at its end.
    """
    workflow = find_workflow(job.workflow)
    if workflow is None:
        return ()
    try:
        params = workflow.parse(job.params)
    except VoxelworksError:
        return ()
    raw: Json = params.model_dump(mode="json", exclude_defaults=True)
    return (
        Copy("copy-command", "Command line", _command(workflow, workflow.flatten(params), job.priority, url)),
        Copy("copy-python", "Python", _python(workflow, raw, job.priority, url)),
        Copy("copy-request", "HTTP", _request(workflow, raw, job.priority, url)),
    )


def _command(workflow: Workflow, flat: Mapping[str, str | Sequence[str]], priority: int, url: str) -> str:
    options = [*_options(workflow.fields, flat)]
    if priority:
        options.append(("--priority", str(priority)))
    options.append(("--server", url))
    return " \\\n  ".join([f"voxelworks jobs submit {workflow.name}", *map(shlex.join, options)])


def _options(
    fields: Sequence[ParamField], flat: Mapping[str, str | Sequence[str]]
) -> Iterator[tuple[str, ...]]:
    repeated = [field for field in fields if field.is_repeated and field.name in flat]
    rows = max((len(flat[field.name]) for field in repeated), default=0)
    # Item by item, as a person would type them.
    for row in range(rows):
        for field in repeated:
            yield (field.option, flat[field.name][row])
    for field in fields:
        value = flat.get(field.name)
        if field.is_repeated or not isinstance(value, str):
            continue
        if field.kind == "flag":
            yield (field.option if value == "true" else f"--no-{field.option.removeprefix('--')}",)
        else:
            yield (field.option, value)


def _python(workflow: Workflow, raw: Json, priority: int, url: str) -> str:
    params = pprint.pformat(raw, width=_WIDTH - 8, sort_dicts=False).replace("\n", "\n        ")
    more = f",\n        priority={priority}," if priority else ","
    return (
        "import os\n\nfrom voxelworks.client import Client\n\n"
        f'with Client({url!r}, os.environ["VOXELWORKS_TOKEN"]) as client:\n'
        f"    job = client.submit(\n        {workflow.name!r},\n        {params}{more}\n    )\n"
    )


def _request(workflow: Workflow, raw: Json, priority: int, url: str) -> str:
    body = {"workflow": workflow.name, "params": raw} | ({"priority": priority} if priority else {})
    return " \\\n  ".join(
        [
            f"curl {shlex.quote(f'{url}/api/v1/jobs')}",
            f'-H "Authorization: Bearer {_TOKEN}" -H "Content-Type: application/json"',
            f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}",
        ]
    )
