"""A queue for tests: every call is one transaction, as a request to the server is, and time passes when told."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from voxelworks import accounts, catalog, jobs
from voxelworks.accounts._tables import MembershipRow, OrganizationRow, UserRow
from voxelworks.db import APPEND_ONLY, Base, Database, changes_let_through, now
from voxelworks.protocol.messages import (
    Claim,
    FinishAnswer,
    FinishRequest,
    Json,
    Progress,
    PublishedRequest,
    RenewAnswer,
    RenewRequest,
    SealedResult,
    SealRequest,
    SessionRequest,
)
from voxelworks.protocol.people import Principal, Role, WorkerKeyView
from voxelworks.protocol.places import Places
from voxelworks.protocol.views import DatasetSummary, JobDetail, JobPage, JobView, LayerSummary
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
    kind="addition", place="data:local/demo", layer="segmentation", value={"largest_segment_id": 7}
)


PEOPLE: tuple[tuple[str, str, Role], ...] = (
    ("ada", "local", "admin"), ("ben", "local", "member"), ("dan", "local", "dataset_manager"),
    ("cleo", "other", "admin"), ("eve", "other", "member"),
)  # fmt: skip
"""User, organization and role. The operator owns both organizations."""
MANY = {"short": 1000, "long": 1000}


@dataclass(frozen=True)
class Queue:
    """Jobs over a database of their own, with a dataset `demo` and an import root `scope` that holds `raw`.

    There are the organizations `local` and `other`, each with the people above; `demo` is one of `local`.
    """

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
        queue.call(_add_people)
        queue.call(
            catalog.register, organization_id="local", user_id="ada", name="demo", place="data:local/demo", summary=DEMO
        )  # fmt: skip
        return queue

    def principal(self, user_id: str) -> Principal:
        """Give one of the people."""
        role, organization_id = next((role, where) for name, where, role in PEOPLE if name == user_id)
        return Principal(
            user_id=user_id, organization_id=organization_id, role=role, name=user_id.capitalize(),
            email=f"{user_id}@example.org",
        )  # fmt: skip

    @property
    def operator(self) -> Principal:
        return Principal(
            user_id="local", organization_id="local", role="owner", name="Local operator", is_operator=True
        )

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function of `jobs` or `catalog` in its own transaction, with settings and places if it takes them."""
        for name in {"settings", "places"} & inspect.signature(function).parameters.keys():
            kwargs.setdefault(name, getattr(self, name))
        with self.database.session() as session:
            return function(session, *args, **kwargs)

    def submit(self, **options: Any) -> JobView:
        """Submit a job of Ada that looks for the largest id in `demo`."""
        params: Json = {"layer": "demo/segmentation"}
        chosen = {
            "by": self.principal("ada"), "workflow": "find_largest_segment_id", "params": params, **options,
        }  # fmt: skip
        return self.call(jobs.submit, **chosen)

    def submit_convert(self, target: str, **options: Any) -> JobView:
        """Submit a job that makes a dataset."""
        return self.submit(
            workflow="convert", params={"layers": [{"source": "root:scope/raw"}], "target": target}, **options
        )

    def open_worker(self, name: str = "worker", **known: int) -> str:
        """Let a worker in that runs every workflow, or those named, as many side by side as there are."""
        told: dict[str, Any] = {"workflows": known} if known else {}
        return self.open_worker_with(name, **told)

    def open_worker_with(self, name: str = "worker", *, key: WorkerKeyView | None = None, **told: Any) -> str:
        """Let a worker in that tells more of itself."""
        known = {name: item.version for name, item in workflows().items()}
        facts = {
            "name": name,
            "version": "1",
            "workflows": known,
            "slots": MANY,
            "isolation": "limits",
            **told,
        }
        return self.call(jobs.open_session, SessionRequest.model_validate(facts), key=key).session_id

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
        return self.call(jobs.cancel, job_id, by=self.principal("ada"))

    def retry(self, job_id: str, **options: Any) -> JobView:
        return self.call(jobs.retry, job_id, **{"by": self.principal("ada"), **options})

    def publish(self, claim: Claim, error: str | None = None) -> None:
        request = PublishedRequest(token=claim.token, error=error)
        self.call(jobs.published, claim.job_id, claim.attempt, request)

    def list_jobs(self, **filters: Any) -> JobPage:
        """List jobs as the operator sees them."""
        with self.database.read_session() as session:
            return jobs.list_jobs(
                session, **{"by": self.operator, "settings": self.settings, "limit": 1000, **filters}
            )

    def reap(self) -> int:
        return jobs.reap_all(self.database, settings=self.settings)

    def show(self, job_id: str) -> JobDetail:
        with self.database.read_session() as session:
            return jobs.show(session, job_id, by=self.operator, settings=self.settings)

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
                if not dates or session.execute(select(table).limit(1)).first() is None:
                    continue  # lifting the protection of a table takes longer than looking into it
                is_kept = table.info.get(APPEND_ONLY, False)
                with changes_let_through(session, table) if is_kept else nullcontext():
                    session.execute(update(table).values(dates))


def _add_people(session: Session) -> None:
    at_ms = now(session)
    accounts.prepare(session)
    session.add(OrganizationRow(id="other", name="Other", zone="UTC", created_ms=at_ms))
    for name, _, _ in PEOPLE:
        email = f"{name}@example.org"
        session.add(
            UserRow(id=name, email=email, name=name.capitalize(), is_operator=False, created_ms=at_ms)
        )
    session.flush()
    for name, organization_id, role in (*PEOPLE, ("local", "other", "owner")):
        session.add(MembershipRow(user_id=name, organization_id=organization_id, role=role, created_ms=at_ms))


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
