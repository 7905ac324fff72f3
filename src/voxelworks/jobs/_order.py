"""Who is next: the one statement that gives a job away (R5, R8, R9).

Every job queues in a *lane*: its organization, user and workflow. The statement looks at the first job of each lane
alone, however many wait behind it, and takes the best of these:

1. short jobs before long ones, each only while the worker has a slot of that class free;
2. the organization that runs the fewest jobs of the class. One that was not given a job for `ageing_s` counts as if it
   ran one fewer, then two fewer, and so on: nobody waits for ever;
3. the job that was submitted first. A step of `priority` counts like `ageing_s` of waiting.

To put the statement together takes longer than to carry it out: it is kept for each shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    ScalarSelect,
    Text,
    Update,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.orm.util import AliasedClass

from voxelworks.jobs._leases import milliseconds, runs
from voxelworks.jobs._tables import JobRow, TurnRow, WorkerSessionRow
from voxelworks.protocol.messages import PriorityClass
from voxelworks.settings import Settings

JobAlias = AliasedClass[JobRow] | type[JobRow]


@dataclass(frozen=True)
class Limits:
    """How many jobs may run at the same time (R9)."""

    per_organization: int | None = None
    of: tuple[tuple[str, int], ...] = ()
    """Organizations with a limit of their own."""
    per_user: int | None = None
    per_workflow: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        return cls(
            settings.jobs_max_per_organization, tuple(sorted(settings.jobs_max_of.items())),
            settings.jobs_max_per_user, tuple(sorted(settings.jobs_max_per_workflow.items())),
        )  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What the statement depends on, besides the values of `values`."""

    workflows: tuple[tuple[str, int], ...]
    """Those whose needs the worker meets, with their highest version."""
    classes: tuple[PriorityClass, ...]
    has_gpu: bool
    knows_memory: bool
    must_leave: bool
    is_of_one_organization: bool
    limits: Limits
    ageing_ms: int

    @classmethod
    def of(
        cls,
        worker: WorkerSessionRow,
        workflows: dict[str, int],
        classes: tuple[PriorityClass, ...],
        settings: Settings,
        *,
        has_gpu: bool,
    ) -> Shape:
        return cls(
            workflows=tuple(sorted(workflows.items())), classes=classes, has_gpu=has_gpu,
            knows_memory=worker.memory_bytes is not None, must_leave=worker.leaves_ms is not None,
            is_of_one_organization=worker.organization_id is not None, limits=Limits.from_settings(settings),
            ageing_ms=max(1, milliseconds(settings.ageing_s)),
        )  # fmt: skip


NOW = bindparam("now_ms", type_=BigInteger())
"""The time of a claim."""
_MEMORY = bindparam("worker_memory_bytes", type_=BigInteger())
_LEAVES = bindparam("worker_leaves_ms", type_=BigInteger())
_ORGANIZATION = bindparam("worker_organization_id", type_=Text())


def values(worker: WorkerSessionRow) -> dict[str, Any]:
    """Give the values of the statement for a worker, besides the time."""
    found: dict[str, Any] = {}
    if worker.memory_bytes is not None:
        found[_MEMORY.key] = worker.memory_bytes
    if worker.leaves_ms is not None:
        found[_LEAVES.key] = worker.leaves_ms
    if worker.organization_id is not None:
        found[_ORGANIZATION.key] = worker.organization_id
    return found


@lru_cache(maxsize=256)
def claiming(shape: Shape) -> Update:
    """Make the statement that claims the next job, and returns it.

    A job that somebody cancels at this moment is waited for, and then not taken: the worker asks again.
    """
    return (
        update(JobRow)
        .where(JobRow.id == next_job(shape, NOW), JobRow.state == "queued")
        .values(
            state="claimed",
            attempt=JobRow.attempt + 1,
            updated_ms=NOW,
            failure_class=None,
            code=None,
            message=None,
        )
        .returning(JobRow)
    )


def next_job(shape: Shape, at_ms: ColumnElement[int]) -> ScalarSelect[str]:
    """Find the job that is given away next at a time; there may be none."""
    lanes, head, running = _lanes(), aliased(JobRow, name="head"), _running()
    waits_from = case((TurnRow.claimed_ms > head.created_ms, TurnRow.claimed_ms), else_=head.created_ms)
    share = func.coalesce(running.c.number, 0) - (at_ms - waits_from) // shape.ageing_ms
    return (
        select(head.id)
        .select_from(lanes)
        .join(head, head.id == _first_in_lane(lanes, shape, at_ms))
        .outerjoin(
            running,
            and_(
                running.c.organization_id == head.organization_id,
                running.c.priority_class == head.priority_class,
            ),
        )
        .outerjoin(
            TurnRow,
            and_(
                TurnRow.organization_id == head.organization_id,
                TurnRow.priority_class == head.priority_class,
            ),
        )
        .where(
            runs(dict(shape.workflows), head),
            head.priority_class.in_(shape.classes),
            head.organization_id == _ORGANIZATION if shape.is_of_one_organization else true(),
            is_within_limits(head, shape.limits),
        )
        .order_by(case((head.priority_class == "short", 0), else_=1), share, head.rank_ms, head.id)
        .limit(1)
        .scalar_subquery()
    )


def _lanes() -> CTE:
    """List the lanes in which jobs wait, each found by one look into the index of queued jobs."""
    first = select(JobRow.lane).where(is_queued()).where(JobRow.lane.is_not(None))
    lanes = select(first.order_by(JobRow.lane).limit(1).scalar_subquery().label("lane")).cte(
        "lanes", recursive=True
    )
    other = aliased(JobRow)
    following = (
        select(other.lane)
        .where(is_queued(other), other.lane > lanes.c.lane)
        .order_by(other.lane)
        .limit(1)
        .correlate(lanes)
        .scalar_subquery()
    )
    return lanes.union_all(select(following).where(lanes.c.lane.is_not(None)))


def _first_in_lane(lanes: CTE, shape: Shape, at_ms: ColumnElement[int]) -> ScalarSelect[str]:
    waiting = aliased(JobRow, name="waiting")
    return (
        select(waiting.id)
        .where(
            # A lane of another workflow is not looked through, however many of its jobs the worker could not run.
            or_(
                *(lanes.c.lane.endswith(f"/{name}", autoescape=True) for name, _ in shape.workflows), false()
            ),
            is_queued(waiting),
            waiting.lane == lanes.c.lane,
            waiting.available_ms <= at_ms,
            _fits(waiting, shape, at_ms),
        )
        .order_by(waiting.rank_ms, waiting.id)
        .limit(1)
        .correlate(lanes)
        .scalar_subquery()
    )


def _running() -> CTE:
    """Count the jobs that each organization runs, by class."""
    return (
        select(JobRow.organization_id, JobRow.priority_class, func.count().label("number"))
        .where(is_held())
        .group_by(JobRow.organization_id, JobRow.priority_class)
        .cte("running")
    )


def is_queued(job: JobAlias = JobRow) -> ColumnElement[bool]:
    # Written out, not as a parameter: only then do both databases see that the index of queued jobs serves.
    return job.state == literal_column("'queued'")


def is_held(job: JobAlias = JobRow) -> ColumnElement[bool]:
    return job.state.in_([literal_column(f"'{state}'") for state in ("claimed", "running", "cancelling")])


def is_within_limits(job: JobAlias, limits: Limits) -> ColumnElement[bool]:
    """Match jobs whose organization, user and workflow may run one more (R9)."""
    other = aliased(JobRow)
    conditions: list[ColumnElement[bool]] = []

    def limit(maximum: ColumnElement[Any], *same: ColumnElement[bool]) -> None:
        number = select(func.count()).select_from(other).where(is_held(other), *same).correlate(job)
        conditions.append(or_(maximum.is_(None), number.scalar_subquery() < maximum))

    if limits.per_organization is not None or limits.of:
        usual = _number(limits.per_organization)
        own = case(dict(limits.of), value=job.organization_id, else_=usual) if limits.of else usual
        limit(own, other.organization_id == job.organization_id)
    if limits.per_user is not None:
        limit(_number(limits.per_user), other.user_id == job.user_id)
    if limits.per_workflow:
        most = case(dict(limits.per_workflow), value=job.workflow, else_=null())
        limit(most, other.workflow == job.workflow)
    return and_(true(), *conditions)


def _number(value: int | None) -> ColumnElement[Any]:
    return null() if value is None else literal_column(str(value))


def _fits(job: JobAlias, shape: Shape, at_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """Match jobs whose needs the worker meets."""
    conditions: list[ColumnElement[bool]] = []
    if not shape.has_gpu:
        conditions.append(job.needs_gpu == false())
    if shape.knows_memory:
        conditions.append(or_(job.memory_bytes.is_(None), job.memory_bytes <= _MEMORY))
    if shape.must_leave:
        conditions.append(or_(job.walltime_s.is_(None), job.walltime_s * 1000 <= _LEAVES - at_ms))
    return and_(true(), *conditions)
