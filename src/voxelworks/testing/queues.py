"""A queue for tests: every call is one transaction, as a request to the server is, and time passes when told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

from sqlalchemy import update

from voxelworks import catalog, jobs
from voxelworks.db import Base, Database
from voxelworks.protocol.messages import (
    Claim,
    FinishAnswer,
    FinishRequest,
    Json,
    Progress,
    RenewAnswer,
    RenewRequest,
    SealedResult,
    SealRequest,
    SessionRequest,
)
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import DatasetSummary, JobDetail, JobView, LayerSummary
from voxelworks.settings import Settings
from voxelworks.workflows import workflows

T = TypeVar("T")

DEMO = DatasetSummary(
    voxel_size="4,4,40",
    layers=(
        LayerSummary(
            name="segmentation", category="segmentation", dtype="uint32", channel_count=1, box="0,0,0,64,64,64",
            mags=("1",),
        ),
    ),
)  # fmt: skip
LARGEST_ID = SealedResult(
    kind="addition", place="data:demo", layer="segmentation", value={"largest_segment_id": 7}
)


@dataclass(frozen=True)
class Queue:
    """Jobs over a database of their own, with a dataset `demo` and an import root `scope` that holds `raw`."""

    database: Database
    settings: Settings
    places: Places

    @classmethod
    def over(cls, database: Database, folder: Path, **settings: Any) -> Queue:
        (folder / "scope" / "raw").mkdir(parents=True)
        roots = {"scope": folder / "scope"}
        chosen = Settings(**{"home": folder, "import_roots": roots, "backoff_base_s": 0.001, **settings})
        chosen.datasets_dir.mkdir()
        queue = cls(database, chosen, Places.of(chosen))
        queue.call(catalog.register, name="demo", place="data:demo", summary=DEMO)
        return queue

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function of `jobs` or `catalog` in its own transaction, with settings and places if it takes them."""
        for name in {"settings", "places"} & inspect.signature(function).parameters.keys():
            kwargs.setdefault(name, getattr(self, name))
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def submit(self, **options: Any) -> JobView:
        """Submit a job that looks for the largest id in `demo`."""
        params: Json = {"layer": "demo/segmentation"}
        chosen = {"owner": "ada", "workflow": "find_largest_segment_id", "params": params, **options}
        return self.call(jobs.submit, **chosen)

    def submit_convert(self, target: str, **options: Any) -> JobView:
        """Submit a job that makes a dataset."""
        return self.submit(
            workflow="convert", params={"layers": [{"source": "root:scope/raw"}], "target": target}, **options
        )

    def open_worker(self, name: str = "worker", **known: int) -> str:
        """Let a worker in that runs every workflow, or those named."""
        request = SessionRequest(
            name=name,
            version="1",
            workflows=known or {name: item.version for name, item in workflows().items()},
        )
        return self.call(jobs.open_session, request).session_id

    def claim(self, worker: str) -> Claim:
        """Claim a job that must be there."""
        claim = self.call(jobs.claim, worker)
        assert claim is not None, "no job was given away"
        return claim

    def claim_and_start(self, worker: str) -> Claim:
        claim = self.claim(worker)
        assert self.renew(claim).order == "continue"
        return claim

    def renew(self, claim: Claim, progress: Progress | None = None) -> RenewAnswer:
        request = RenewRequest(token=claim.token, progress=progress)
        return self.call(jobs.renew, claim.job_id, claim.attempt, request)

    def seal(self, claim: Claim, result: SealedResult = LARGEST_ID) -> RenewAnswer:
        return self.call(
            jobs.seal, claim.job_id, claim.attempt, SealRequest(token=claim.token, result=result)
        )

    def succeed(self, claim: Claim, result: SealedResult = LARGEST_ID) -> FinishAnswer:
        return self.finish(claim, outcome="succeeded", result=result)

    def fail(self, claim: Claim, failure_class: str, message: str = "it broke") -> FinishAnswer:
        return self.finish(
            claim, outcome="failed", failure_class=failure_class, code="broke", message=message
        )

    def finish(self, claim: Claim, **report: Any) -> FinishAnswer:
        request = FinishRequest.model_validate({"token": claim.token, **report})
        return self.call(jobs.finish, claim.job_id, claim.attempt, request)

    def cancel(self, job_id: str) -> JobView:
        return self.call(jobs.cancel, job_id, who="user:ada")

    def reap(self) -> int:
        return jobs.reap_all(self.database, settings=self.settings)

    def show(self, job_id: str) -> JobDetail:
        with self.database.read_session() as session:
            return jobs.show(session, job_id, settings=self.settings)

    def state(self, job_id: str) -> str:
        return self.show(job_id).job.state

    def history(self, job_id: str) -> list[str]:
        """Give the states that a job went through."""
        events = self.show(job_id).events
        return [event.to_state for event in events if event.to_state != event.from_state]

    def advance(self, seconds: float) -> None:
        """Let time pass: every date of the database moves into the past."""
        with self.database.session() as session:
            for table in Base.metadata.sorted_tables:
                dates = {
                    column: column - round(seconds * 1000)
                    for column in table.columns
                    if column.name.endswith("_ms")
                }
                session.execute(update(table).values(dates))


def at_once(actions: list[Callable[[], T]]) -> list[T | Exception]:
    """Run actions in threads that start together; what they raise is given in place of their result."""
    barrier = Barrier(len(actions))

    def run(action: Callable[[], T]) -> T | Exception:
        barrier.wait()
        try:
            return action()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))
