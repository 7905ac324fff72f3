"""Jobs: what they cost, their state, log and file."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from voxelworks.client._receiving import receive_file
from voxelworks.client._transport import RETRY_WAITS_S, Transport, path_part
from voxelworks.errors import FailureClass, ServerUnreachable
from voxelworks.protocol.credits import QuoteView
from voxelworks.protocol.messages import Json
from voxelworks.protocol.people import NewShare
from voxelworks.protocol.views import (
    ArtifactView,
    BulkAnswer,
    BulkQuote,
    JobDetail,
    JobPage,
    JobView,
    LogChunk,
    LogHits,
    LogLines,
)


class JobCalls(Transport):
    """What can be asked about jobs."""

    def submit(
        self,
        workflow: str,
        params: Json,
        *,
        after: Sequence[str] = (),
        group: str | None = None,
        priority: int = 0,
        quote_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Submit a job.

        Parameters
        ----------
        workflow
        params
            A dataset that another job will make is named as `job:ID`.
        after
            Ids of jobs that must have succeeded before it starts.
        group
            Name under which it is shown and cancelled together with others.
        priority
            Each step counts like having been submitted an hour earlier; above 0 for admins only.
        quote_id
            Of a quote that was agreed to: the job costs exactly that, or `StaleQuote` is raised.
        idempotency_key
            The same key within 24 hours gives the same job, however often it is sent.
        """
        key = idempotency_key or uuid.uuid4().hex
        # What was not asked for is left out: an older server, which does not know of it, takes the job then.
        options = {"after": list(after), "group": group, "priority": priority, "quote_id": quote_id}
        body = {"workflow": workflow, "params": params} | {
            key: value for key, value in options.items() if value
        }
        return JobView.model_validate(
            self._post("jobs", body, headers={"Idempotency-Key": key}, is_repeatable=True)
        )

    def quote(self, workflow: str, params: Json) -> QuoteView | None:
        """Ask what a job would cost, binding for 15 minutes; None if it is free. Nothing is submitted."""
        return self._quote("jobs/quote", {"workflow": workflow, "params": params})

    def list_jobs(
        self,
        *,
        states: Sequence[str] = (),
        workflow: str | None = None,
        owner: str | None = None,
        dataset: str | None = None,
        group: str | None = None,
        failure: FailureClass | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        charged: bool = False,
        text: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """List jobs, newest first.

        Parameters
        ----------
        states
        workflow
        owner
            Id or mail address of who submitted them, for admins.
        dataset
            Name or id of a dataset that they read, change or make.
        group
        failure
            Why they failed.
        since, until
            Submitted then or later, and before. Without a time zone: in that of this machine.
        charged
            Only what was charged for.
        text
            Words that must all be found in the params, the workflow, the group, the failure or the owner's name of a
            job, or begin its id.
        after
            `next_after` of the page before.
        limit
        """
        query: dict[str, Any] = {"state": list(states), "limit": limit}
        filters = {
            "workflow": workflow, "owner": owner, "dataset": dataset, "group": group, "failure": failure,
            "since": since and since.astimezone().isoformat(), "until": until and until.astimezone().isoformat(),
            "charged": charged or None, "text": text, "after": after,
        }  # fmt: skip
        query |= {key: value for key, value in filters.items() if value is not None}
        return JobPage.model_validate(self._get("jobs", query))

    def show(self, job_id: str) -> JobDetail:
        return JobDetail.model_validate(self._get(f"jobs/{path_part(job_id)}"))

    def cancel(self, job_id: str) -> JobView:
        return JobView.model_validate(self._post(f"jobs/{path_part(job_id)}/cancel", {}, is_repeatable=True))

    def retry(self, job_id: str, *, quote_id: str | None = None) -> JobView:
        """Submit the same job anew; give the new one. `quote_id` as in `submit`."""
        return JobView.model_validate(self._post(f"jobs/{path_part(job_id)}/retry", {"quote_id": quote_id}))

    def quote_retry(self, job_id: str) -> QuoteView | None:
        """Ask what `retry` would cost, as `quote` does."""
        return self._quote(f"jobs/{path_part(job_id)}/retry/quote", {})

    def cancel_several(self, job_ids: Sequence[str]) -> BulkAnswer:
        """Cancel at most 200 jobs; one that cannot be cancelled is no reason against the others."""
        return BulkAnswer.model_validate(self._post("jobs/cancel", {"jobs": list(job_ids)}))

    def retry_several(
        self, job_ids: Sequence[str], *, quotes: Mapping[str, QuoteView | None] | None = None
    ) -> BulkAnswer:
        """Submit at most 200 jobs anew, except those that were repeated already; give the new ones.

        Parameters
        ----------
        job_ids
        quotes
            That were agreed to: the `quotes` of `quote_retries`.
        """
        agreed = {job_id: found.id for job_id, found in (quotes or {}).items() if found is not None}
        return BulkAnswer.model_validate(self._post("jobs/retry", {"jobs": list(job_ids), "quotes": agreed}))

    def quote_retries(self, job_ids: Sequence[str]) -> BulkQuote:
        """Ask what `retry_several` would cost."""
        return BulkQuote.model_validate(self._post("jobs/retry/quote", {"jobs": list(job_ids)}))

    def read_log(
        self, job_id: str, attempt: int | None = None, *, offset: int | None = 0, limit: int = 65536
    ) -> LogChunk:
        """Read at most `limit` bytes of an attempt's log.

        Parameters
        ----------
        job_id
        attempt
            Its number; by default the current or last one.
        offset
            Of the first byte; None reads the end.
        limit
        """
        query = {"limit": limit} | {
            key: value for key, value in (("attempt", attempt), ("offset", offset)) if value is not None
        }
        return LogChunk.model_validate(self._get(f"jobs/{path_part(job_id)}/log", query))

    def read_lines(
        self, job_id: str, attempt: int | None = None, *, first: int | None = 1, limit: int = 1000
    ) -> LogLines:
        """Read at most `limit` lines of an attempt's log, from line `first` on; None reads the last ones."""
        query = {"limit": limit, "attempt": attempt, "first": first}
        known = {key: value for key, value in query.items() if value is not None}
        return LogLines.model_validate(self._get(f"jobs/{path_part(job_id)}/log/lines", known))

    def search_log(self, job_id: str, text: str, attempt: int | None = None, *, after: int = 0) -> LogHits:
        """Find the lines of an attempt's log with a text in them.

        Parameters
        ----------
        job_id
        text
            Small and capital letters are alike.
        attempt
            Its number; by default the current or last one.
        after
            Lines to leave out: `searched` of the answer before, to go on where that one was not whole.
        """
        query = {"text": text, "after": after} | ({} if attempt is None else {"attempt": attempt})
        return LogHits.model_validate(self._get(f"jobs/{path_part(job_id)}/log/search", query))

    def watch(self, job_id: str) -> Iterator[JobView]:
        """Yield the job now and whenever it changes, until it has ended and is published.

        Connects again when the connection breaks; `ServerUnreachable` if that fails too.
        """
        failures = 0
        while True:
            try:
                for view in self._stream_job(job_id):
                    failures = 0
                    yield view
                    if is_settled(view):
                        return
            except ServerUnreachable:
                if failures == len(RETRY_WAITS_S):
                    raise
            # Also after a stream that ended without an error: the server is shutting down.
            time.sleep(RETRY_WAITS_S[min(failures, len(RETRY_WAITS_S) - 1)])
            failures += 1

    def download(
        self,
        job_id: str,
        path: str | Path = ".",
        *,
        on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    ) -> Path:
        """Receive the file that a job has left, or what is missing of it; the same call goes on after a break.

        Parameters
        ----------
        job_id
        path
            File to write, which must not exist yet, or the folder to write it to under its own name.
        on_progress
            Called with the bytes that are there and all that there will be.

        Returns
        -------
        Path
            The file, whose SHA-256 was checked.

        Raises
        ------
        NotFound
            If the job has left no file, or its term is over.
        TargetExists, TargetNotWritable, DiskFull
        StorageFailed
            If what arrived is not what the server has.
        ServerUnreachable
            After ten minutes in which nothing arrived.
        """
        return receive_file(self, job_id, Path(path), on_progress=on_progress)

    @contextmanager
    def open_file(self, artifact: ArtifactView, *, first: int = 0) -> Iterator[tuple[bool, Iterator[bytes]]]:
        """Ask for the file of a job from byte `first` on; give whether it begins there, and its pieces."""
        headers = {"Accept-Encoding": "identity"}
        if first:
            headers |= {"Range": f"bytes={first}-", "If-Range": f'"{artifact.sha256}"'}
        with self._stream(f"jobs/{path_part(artifact.job_id)}/file", headers) as response:
            yield first == 0 or response.status_code == 206, response.iter_raw()

    def delete_file(self, job_id: str) -> None:
        """Delete the file of a job before its term is over."""
        self._send("DELETE", f"jobs/{path_part(job_id)}/file", is_repeatable=True)

    def share_file(self, job_id: str, purpose: str, *, lifetime_days: int = 7) -> NewShare:
        """Make an address under which anybody can have the file of a job for a while; see `share_dataset`."""
        body = {"name": purpose, "lifetime_days": lifetime_days}
        return NewShare.model_validate(self._post(f"jobs/{path_part(job_id)}/shares", body))

    def _quote(self, path: str, body: Json) -> QuoteView | None:
        found = self._post(path, body, is_repeatable=True)["quote"]
        return None if found is None else QuoteView.model_validate(found)

    def _stream_job(self, job_id: str) -> Iterator[JobView]:
        with self._stream(f"jobs/{path_part(job_id)}/events") as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield JobDetail.model_validate_json(line.removeprefix("data: ")).job


def is_settled(job: JobView) -> bool:
    """Tell whether nothing more will happen to a job: it has ended, and its files have their name or never will."""
    return job.is_ended and job.publication != "pending"
