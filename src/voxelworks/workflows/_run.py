"""Running a workflow: one attempt for a worker, or the whole way on this machine without any server."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from voxelworks.errors import StorageFailed, VoxelworksError
from voxelworks.protocol.messages import Json, Progress, SealedResult
from voxelworks.workflows._declare import Params, Workflow
from voxelworks.workflows._job import Job, Reporter, StopFlag
from voxelworks.workflows._refs import (
    DatasetRef,
    LocalResolver,
    NewDatasetRef,
    NewModelRef,
    Resolver,
    references,
)
from voxelworks.workflows._registry import get_workflow
from voxelworks.workflows.publishing import (
    AttemptFolder,
    accept,
    attempt_numbers,
    complete,
    exclusive,
    publish,
)

if TYPE_CHECKING:
    from voxelworks.settings import Settings


def run_attempt(
    workflow: Workflow,
    params: Params,
    *,
    resolver: Resolver,
    work_key: str,
    attempt: int,
    settings: Settings,
    cluster: str | None,
    reporter: Reporter,
    stop: StopFlag,
) -> SealedResult:
    """Run one attempt up to its seal.

    Raises
    ------
    VoxelworksError
        Its `failure_class` says whether another attempt may help. After a refusal nothing is left behind.
    """
    from voxelworks.blocks.executor import make_executor

    with make_executor(
        cluster, settings.slots, memory_bytes_max=settings.memory_bytes_max, preloads=workflow.preloads
    ) as executor:
        job = Job(
            workflow, params, resolver=resolver, work_key=work_key, attempt=attempt, settings=settings,
            executor=executor, reporter=reporter, stop=stop,
        )  # fmt: skip
        try:
            return job.seal(workflow.run(params, job))
        except VoxelworksError as error:
            job.discard_refused(error)
            raise


def run_locally(
    workflow: Workflow,
    params: Params,
    *,
    settings: Settings,
    cluster: str | None = None,
    reporter: Reporter,
    stop: StopFlag | None = None,
) -> SealedResult:
    """Run a workflow on this machine, seal and publish its result.

    The same call after a crash goes on where it stopped.
    """
    identity = (workflow.name, workflow.version, params.model_dump_json())
    work_key = "run-" + hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    kind, target = _target(workflow, params)
    if target is None:
        return run_attempt(
            workflow, params, resolver=LocalResolver(settings.model_roots), work_key=work_key, attempt=1,
            settings=settings, cluster=cluster, reporter=reporter, stop=stop or StopFlag(),
        )  # fmt: skip
    home = AttemptFolder.for_target(kind, target, work_key, 1).home
    if not home.is_dir():
        # The run function refuses it with the right words; there is no folder to lock.
        return _attempt_and_publish(workflow, params, settings, cluster, reporter, stop, work_key, 1, target)
    attempt = _next_attempt(home, work_key)
    folder = AttemptFolder(home, work_key, attempt)
    with exclusive(folder):
        try:
            sealed = _complete_earlier(folder, target, reporter) or _attempt_and_publish(
                workflow, params, settings, cluster, reporter, stop, work_key, attempt, target
            )
        except VoxelworksError as error:
            folder.discard_refused(error)
            raise
        folder.discard()
    return sealed


def run(
    name: str,
    /,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    settings: Settings | None = None,
    cluster: str | None = None,
    **params: object,
) -> Json:
    """Run a workflow from Python and give its answer.

    Parameters
    ----------
    name : str
        Workflow, such as ``"downsample"``.
    on_progress : callable, optional
        Called about once a second.
    settings : Settings, optional
        By default from the environment.
    cluster : str, optional
        Address of a Dask scheduler; by default the processes of this machine.
    **params
        As in the workflow's reference page: nested (``layer="dataset/color"``), or flat like the command's options
        (``dataset="dataset", layer="color"``).

    Raises
    ------
    VoxelworksError

    Examples
    --------
    >>> voxelworks.run("find_largest_segment_id", layer="my-dataset/segmentation")  # doctest: +SKIP
    {'dataset': 'my-dataset', 'layer': 'segmentation', 'largest_segment_id': 4711}
    """
    from voxelworks.settings import Settings  # slow import, which the processes of blocks do without

    workflow = get_workflow(name)
    sealed = run_locally(
        workflow,
        workflow.parse(_nested(workflow, params)),
        settings=settings or Settings(),
        cluster=cluster,
        reporter=_CallbackReporter(on_progress),
    )
    return sealed.value


class _CallbackReporter:
    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self._on_progress = on_progress

    def progress(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(progress)

    def log(self, text: str) -> None:
        print(text, file=sys.stderr)


def _attempt_and_publish(
    workflow: Workflow,
    params: Params,
    settings: Settings,
    cluster: str | None,
    reporter: Reporter,
    stop: StopFlag | None,
    work_key: str,
    attempt: int,
    target: str,
) -> SealedResult:
    sealed = run_attempt(
        workflow, params, resolver=LocalResolver(settings.model_roots), work_key=work_key, attempt=attempt,
        settings=settings, cluster=cluster, reporter=reporter, stop=stop or StopFlag(),
    )  # fmt: skip
    if sealed.kind != "value":
        accept(sealed, AttemptFolder.for_target(sealed.kind, target, work_key, attempt))
    publish(sealed, target, work_key=work_key, attempt=attempt)
    return sealed


def _complete_earlier(folder: AttemptFolder, target: str, reporter: Reporter) -> SealedResult | None:
    """Complete what an earlier call had begun to publish when it was killed."""
    earlier = replace(folder, attempt=folder.attempt - 1)
    try:
        sealed = complete(earlier, target)
    except StorageFailed as error:
        if error.__cause__ is not None:
            raise  # the file system did not answer
        # Somebody has changed or removed what was there: it is made anew.
        earlier.discard()
        return None
    if sealed is not None:
        reporter.log("completing what an earlier run had begun to publish")
    return sealed


def _target(workflow: Workflow, params: Params) -> tuple[str, str | None]:
    """Find what the workflow makes or adds to."""
    kind = workflow.outcome_type.kind
    refs = list(references(params))
    if kind == "dataset":
        return kind, next(str(ref) for ref in refs if isinstance(ref, NewDatasetRef))
    if kind == "model":
        return kind, next(str(ref) for ref in refs if isinstance(ref, NewModelRef))
    if kind == "artifact":
        assert workflow.file_name is not None
        return kind, workflow.file_name(params)
    if kind == "previews":
        (ref,) = (ref for ref in refs if isinstance(ref, DatasetRef))
        return kind, LocalResolver().previews(ref)[1]
    return kind, str(refs[0]) if kind == "addition" else None


def _next_attempt(home: Path, work_key: str) -> int:
    return max(attempt_numbers(AttemptFolder(home, work_key, 1).work), default=0) + 1


def _nested(workflow: Workflow, params: Mapping[str, object]) -> Json:
    """Accept nested params and the flat ones of the command's options."""
    nested = workflow.params_type.model_fields
    flat = {field.name: field for field in workflow.fields}
    if not any(name in flat and name not in nested for name in params):
        return dict(params)
    known = {
        name: _flat_value(value, flat[name].is_repeated) for name, value in params.items() if name in flat
    }
    unknown = {name: value for name, value in params.items() if name not in flat}
    return {
        **unknown,
        **workflow.collect({name: value for name, value in known.items() if value is not None}),
    }


def _flat_value(value: object, is_repeated: bool) -> str | list[str] | None:
    if isinstance(value, list | tuple):
        texts = [str(item) for item in value]
        return texts if is_repeated else ",".join(texts)
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
