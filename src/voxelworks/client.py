"""HTTP client of a Voxelworks server, shared by the command line, workers and notebooks.

::

    with Client.found(Settings()) as client:
        job = client.submit("downsample", {"layer": "demo/color"})
        for view in client.watch(job.id):
            print(view.state, view.progress)

An error that the server reports is raised here as the same class; no answer at all is `ServerUnreachable`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from json import JSONDecodeError
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from voxelworks.errors import (
    FailureClass,
    InvalidInput,
    NotAllowed,
    ServerUnreachable,
    StorageFailed,
    TargetExists,
    TargetNotWritable,
    VoxelworksError,
)
from voxelworks.protocol.credits import ActivityKind, ActivityPage, Balance, QuoteView
from voxelworks.protocol.messages import (
    Claim,
    ClaimRequest,
    CleanedRequest,
    CleanupOrder,
    DatasetLeaseAnswer,
    DatasetLeaseRequest,
    FinishAnswer,
    FinishRequest,
    Json,
    Message,
    PublishedRequest,
    PublishOrder,
    RenewAnswer,
    RenewRequest,
    SealRequest,
    SessionAnswer,
    SessionRequest,
)
from voxelworks.protocol.people import ApiTokenView, LoginSessionView, NewShare, NewToken, Scope, ShareView
from voxelworks.protocol.uploads import MissingFile, NewUpload, Piece, ReceivedFile, UploadView, pack
from voxelworks.protocol.views import (
    AnnotationView,
    ArtifactView,
    BulkAnswer,
    BulkQuote,
    DatasetView,
    JobDetail,
    JobPage,
    JobView,
    LogChunk,
    LogHits,
    LogLines,
    SavedParams,
    WorkerView,
)
from voxelworks.receiving import receive_file
from voxelworks.sending import send_files
from voxelworks.settings import Settings

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
LOOK_TIMEOUT_S = 600.0
"""For what the server looks through before it answers: an annotation with its volume data, metadata of a far host."""
COPY_BYTES = 2**20
RETRY_WAITS_S = (0.2, 0.8)
"""Pauses before the second and third try of a call that may safely be repeated."""

_M = TypeVar("_M", bound=BaseModel)


class ServerInfo(BaseModel):
    """How programs of the same user reach a running server: the content of `home/server.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    token: str
    pid: int

    @property
    def entry_url(self) -> str:
        """Address that lets a browser in: it carries the token once, and is redirected to one without."""
        return f"{self.url}/?token={self.token}"

    @classmethod
    def read(cls, file: Path) -> ServerInfo | None:
        """Read the file; None if there is none, or an unreadable one."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None


def server_file(home: Path) -> Path:
    return home / "server.json"


def worker_key_file(home: Path) -> Path:
    return home / "worker.key"


def find_server(settings: Settings) -> ServerInfo:
    """Find the server that runs with the same `home`.

    Raises
    ------
    ServerUnreachable
        If none has announced itself there.
    """
    info = ServerInfo.read(server_file(settings.home))
    if info is None:
        raise ServerUnreachable(
            f"no server runs in {settings.home}; start one with `voxelworks serve`, or name another"
        )
    return info


class RootView(Message):
    """A folder that the operator allowed jobs to read from."""

    name: str
    place: str


class EntryView(Message):
    """A file or folder below an import root."""

    name: str
    place: str
    is_folder: bool
    size_bytes: int | None
    """Of a file; None for a folder."""


class FolderView(Message):
    """What lies in a folder below an import root."""

    place: str
    parent: str | None
    """None for the root itself."""
    entries: tuple[EntryView, ...]
    """Folders first, each in natural order."""
    file_count: int
    """All files, also those that `entries` leaves out."""
    folder_count: int


class Client:
    """A connection to one server. It may be used by several threads.

    Parameters
    ----------
    url
        Address of the server, such as ``http://127.0.0.1:8440``.
    token
        The start-up token, or the worker key for the calls of workers.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = _checked_address(url)
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # A proxy of the environment never lies between a machine and its own server.
            trust_env=False,
        )

    @classmethod
    def found(cls, settings: Settings) -> Self:
        """Connect to the server that runs with the same `home`; see `find_server`."""
        info = find_server(settings)
        return cls(info.url, info.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # What a person asks for

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

    def balance(self) -> Balance:
        """Ask what the organization can spend."""
        return Balance.model_validate(self._get("organization/credits"))

    def activity(
        self, *, kinds: Sequence[ActivityKind] = (), before: int | None = None, limit: int = 50
    ) -> ActivityPage:
        """List what came to and went from the credits of the organization, newest first; for its owner and admins.

        Parameters
        ----------
        kinds
            Only these; by default all.
        before
            `next_before` of the page before.
        limit
            At most 500.
        """
        query: dict[str, Any] = {"kind": list(kinds), "limit": limit}
        return ActivityPage.model_validate(
            self._get("organization/credits/activity", query | ({} if before is None else {"before": before}))
        )

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
        return JobDetail.model_validate(self._get(f"jobs/{_part(job_id)}"))

    def cancel(self, job_id: str) -> JobView:
        return JobView.model_validate(self._post(f"jobs/{_part(job_id)}/cancel", {}, is_repeatable=True))

    def retry(self, job_id: str, *, quote_id: str | None = None) -> JobView:
        """Submit the same job anew; give the new one. `quote_id` as in `submit`."""
        return JobView.model_validate(self._post(f"jobs/{_part(job_id)}/retry", {"quote_id": quote_id}))

    def quote_retry(self, job_id: str) -> QuoteView | None:
        """Ask what `retry` would cost, as `quote` does."""
        return self._quote(f"jobs/{_part(job_id)}/retry/quote", {})

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
        return LogChunk.model_validate(self._get(f"jobs/{_part(job_id)}/log", query))

    def read_lines(
        self, job_id: str, attempt: int | None = None, *, first: int | None = 1, limit: int = 1000
    ) -> LogLines:
        """Read at most `limit` lines of an attempt's log, from line `first` on; None reads the last ones."""
        query = {"limit": limit, "attempt": attempt, "first": first}
        known = {key: value for key, value in query.items() if value is not None}
        return LogLines.model_validate(self._get(f"jobs/{_part(job_id)}/log/lines", known))

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
        return LogHits.model_validate(self._get(f"jobs/{_part(job_id)}/log/search", query))

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

    def list_params(self, workflow: str | None = None) -> tuple[SavedParams, ...]:
        """List your own sets of params, and those that others share; of one workflow, or of all."""
        found = self._get("params", None if workflow is None else {"workflow": workflow})
        return TypeAdapter(tuple[SavedParams, ...]).validate_python(found)

    def save_params(
        self, workflow: str, name: str, params: Json, *, is_shared: bool = False, with_data: bool = False
    ) -> SavedParams:
        """Keep some or all params of a workflow under a name.

        Parameters
        ----------
        workflow
        name
        params
        is_shared
            All members of the organization may use them.
        with_data
            Keep datasets, layers, boxes and sources too.
        """
        body = {
            "workflow": workflow,
            "name": name,
            "params": params,
            "is_shared": is_shared,
            "with_data": with_data,
        }
        return SavedParams.model_validate(self._post("params", body))

    def change_params(
        self,
        set_id: str,
        *,
        name: str | None = None,
        is_shared: bool | None = None,
        params: Json | None = None,
    ) -> SavedParams:
        """Rename your set, share it or not, or keep other params in it."""
        body = {"name": name, "is_shared": is_shared, "params": params}
        return SavedParams.model_validate(
            _json(self._send("PATCH", f"params/{_part(set_id)}", json=body, is_repeatable=True))
        )

    def delete_params(self, set_id: str) -> None:
        """Forget a set of params."""
        self._send("DELETE", f"params/{_part(set_id)}")

    def list_datasets(
        self, *, include_trashed: bool = False, include_public: bool = False
    ) -> tuple[DatasetView, ...]:
        """List the datasets of the organization by name; if asked for, also its trash and the public ones of others."""
        query = {"include_trashed": include_trashed, "include_public": include_public}
        wanted = {name: True for name, is_wanted in query.items() if is_wanted}
        return TypeAdapter(tuple[DatasetView, ...]).validate_python(self._get("datasets", wanted or None))

    def show_dataset(self, name: str) -> DatasetView:
        """Show a dataset by its name or id."""
        return DatasetView.model_validate(self._get(f"datasets/{_part(name)}"))

    def link_dataset(self, name: str, place: str) -> DatasetView:
        """Take a dataset into the catalog where it lies; it is neither copied nor ever written.

        Parameters
        ----------
        name
            It gets here.
        place
            Below an import root, such as ``root:scope/cortex``, or an address on a host that the operator allowed.
        """
        body = {"name": name, "place": place}
        return DatasetView.model_validate(
            _json(self._send("POST", "datasets", json=body, timeout=LOOK_TIMEOUT_S))
        )

    def change_dataset(
        self, name: str, *, new_name: str | None = None, is_public: bool | None = None
    ) -> DatasetView:
        """Rename a dataset, or let members of all organizations read it, or no longer."""
        changes = {"name": new_name, "is_public": is_public}
        body = {key: value for key, value in changes.items() if value is not None}
        return DatasetView.model_validate(_json(self._send("PATCH", f"datasets/{_part(name)}", json=body)))

    def set_voxel_size(self, name: str, voxel_size: str) -> DatasetView:
        """State another voxel size of a dataset; its voxels and mags stay as they are.

        Parameters
        ----------
        name
            Name or id of the dataset.
        voxel_size
            Nanometres, `x,y,z`.
        """
        body = {"voxel_size": voxel_size}
        answer = self._send("PATCH", f"datasets/{_part(name)}", json=body, is_repeatable=True)
        return DatasetView.model_validate(_json(answer))

    def trash_dataset(self, name: str) -> DatasetView:
        """Put a dataset into the trash, until its `purge_ms`."""
        return DatasetView.model_validate(_json(self._send("DELETE", f"datasets/{_part(name)}")))

    def restore_dataset(self, dataset_id: str) -> DatasetView:
        """Take a dataset, named by its id, back from the trash."""
        return DatasetView.model_validate(self._post(f"datasets/{_part(dataset_id)}/restore", {}))

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset in the trash, named by its id, for good."""
        self._post(f"datasets/{_part(dataset_id)}/delete-now", {})

    def share_dataset(self, name: str, purpose: str, *, lifetime_days: int = 7) -> NewShare:
        """Make an address under which anybody can read a dataset for a while, without an account.

        Parameters
        ----------
        purpose
            What it is for, as the page of the dataset shows it.
        """
        body = {"name": purpose, "lifetime_days": lifetime_days}
        return NewShare.model_validate(self._post(f"datasets/{_part(name)}/shares", body))

    def list_shares(self, name: str) -> tuple[ShareView, ...]:
        """List the addresses under which a dataset can be read, without the addresses, newest first."""
        found = self._get(f"datasets/{_part(name)}/shares")
        return TypeAdapter(tuple[ShareView, ...]).validate_python(found)

    def revoke_share(self, name: str, share_id: str) -> None:
        """End an address of a dataset at once."""
        self._send("DELETE", f"datasets/{_part(name)}/shares/{_part(share_id)}")

    def list_annotations(self, *, include_trashed: bool = False) -> tuple[AnnotationView, ...]:
        """List the annotations of the organization; if asked for, also those in its trash."""
        found = self._get("annotations", {"include_trashed": True} if include_trashed else None)
        return TypeAdapter(tuple[AnnotationView, ...]).validate_python(found)

    def show_annotation(self, annotation_id: str) -> AnnotationView:
        return AnnotationView.model_validate(self._get(f"annotations/{_part(annotation_id)}"))

    def upload_annotation(
        self, file: Path, *, name: str | None = None, dataset: str | None = None
    ) -> AnnotationView:
        """Send an annotation: an NML file, or a zip with one and its volume layers.

        Parameters
        ----------
        file
        name
            By default that of the file.
        dataset
            Name or id of a dataset of the server that it belongs to.

        Raises
        ------
        InvalidInput
            If the file cannot be read or is no annotation.
        """
        try:
            opened = file.open("rb")
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
        fields = {"name": name or file.name} | ({} if dataset is None else {"dataset": dataset})
        with opened:
            response = self._send(
                "POST",
                "annotations",
                data=fields,
                files={"file": (file.name, opened)},
                timeout=LOOK_TIMEOUT_S,
            )
        return AnnotationView.model_validate(_json(response))

    def link_annotation(
        self, name: str, address: str, *, token: str | None = None, dataset: str | None = None
    ) -> AnnotationView:
        """Name an annotation that stays in a WEBKNOSSOS; jobs fetch it when they need it.

        Parameters
        ----------
        name
        address
            As the browser shows it.
        token
            Of an account there that may read it.
        dataset
            Name or id of a dataset of the server that it belongs to.
        """
        body = {"name": name, "address": address, "token": token, "dataset": dataset}
        return AnnotationView.model_validate(self._post("annotations/link", body))

    def download_annotation(self, annotation_id: str, target: Path) -> None:
        """Save an uploaded annotation as it came.

        Raises
        ------
        TargetExists
            If there is a file already.
        StorageFailed
            If what arrived is not what was uploaded.
        """
        view = self.show_annotation(annotation_id)
        if target.exists():
            raise TargetExists(f"{target} exists; choose another name")
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with part.open("xb") as stream:
                sha256 = self._copy(f"annotations/{_part(annotation_id)}/file", stream)
            if view.sha256 is not None and sha256 != view.sha256:
                raise StorageFailed(f"annotation {annotation_id} arrived damaged; download it again")
            part.rename(target)
        except OSError as error:
            raise TargetNotWritable(f"{target} cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def trash_annotation(self, annotation_id: str) -> AnnotationView:
        """Put an annotation into the trash, until its `purge_ms`."""
        return AnnotationView.model_validate(
            _json(self._send("DELETE", f"annotations/{_part(annotation_id)}"))
        )

    def restore_annotation(self, annotation_id: str) -> AnnotationView:
        """Take an annotation back from the trash."""
        return AnnotationView.model_validate(self._post(f"annotations/{_part(annotation_id)}/restore", {}))

    def delete_annotation(self, annotation_id: str) -> None:
        """Delete an annotation in the trash for good."""
        self._post(f"annotations/{_part(annotation_id)}/delete-now", {})

    def list_tokens(self) -> tuple[ApiTokenView, ...]:
        """List your API tokens of this organization, newest first."""
        return TypeAdapter(tuple[ApiTokenView, ...]).validate_python(self._get("account/tokens"))

    def create_token(self, name: str, scopes: Sequence[Scope], *, lifetime_days: int | None = 90) -> NewToken:
        """Make an API token; what was let in with one cannot make another.

        Parameters
        ----------
        name
            What it is for.
        scopes
        lifetime_days
            None: it does not end by itself.
        """
        body = {"name": name, "scopes": list(scopes), "lifetime_days": lifetime_days}
        return NewToken.model_validate(self._post("account/tokens", body))

    def revoke_token(self, token_id: str) -> None:
        """End one of your API tokens at once."""
        self._send("DELETE", f"account/tokens/{_part(token_id)}")

    def list_sessions(self) -> tuple[LoginSessionView, ...]:
        """List the browsers that you are logged in with, the one used last first."""
        return TypeAdapter(tuple[LoginSessionView, ...]).validate_python(self._get("account/sessions"))

    def end_session(self, session_id: str) -> None:
        """Log one of your browsers out."""
        self._send("DELETE", f"account/sessions/{_part(session_id)}")

    def end_sessions(self) -> None:
        """Log all your browsers out."""
        self._send("DELETE", "account/sessions")

    def list_workers(self) -> tuple[WorkerView, ...]:
        return TypeAdapter(tuple[WorkerView, ...]).validate_python(self._get("workers"))

    def list_roots(self) -> tuple[RootView, ...]:
        return TypeAdapter(tuple[RootView, ...]).validate_python(self._get("roots"))

    def browse(self, place: str) -> FolderView:
        """Look into a folder below an import root, such as ``root:scope/run1``."""
        return FolderView.model_validate(self._get("folders", {"place": place}))

    # Files of jobs

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
        try:
            with self._http.stream("GET", f"jobs/{_part(artifact.job_id)}/file", headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise self._error_of(response)
                yield first == 0 or response.status_code == 206, response.iter_raw()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def delete_file(self, job_id: str) -> None:
        """Delete the file of a job before its term is over."""
        self._send("DELETE", f"jobs/{_part(job_id)}/file", is_repeatable=True)

    def share_file(self, job_id: str, purpose: str, *, lifetime_days: int = 7) -> NewShare:
        """Make an address under which anybody can have the file of a job for a while; see `share_dataset`."""
        body = {"name": purpose, "lifetime_days": lifetime_days}
        return NewShare.model_validate(self._post(f"jobs/{_part(job_id)}/shares", body))

    # Uploads

    def upload(
        self,
        files: Mapping[str, Path],
        *,
        is_converted: bool = False,
        on_begun: Callable[[UploadView], object] = lambda _: None,
        on_progress: Callable[[int, int], object] = lambda _done, _total: None,
    ) -> UploadView:
        """Send files, or what is missing of them: the same files sent again go on where it was broken off.

        Parameters
        ----------
        files
            Path in the upload, with `/`, and the file.
        is_converted
            A job shall make a dataset of them: the upload is refused if there is no room for both.
        on_begun
            Called before the first byte is sent; what it raises ends the upload.
        on_progress
            Called with the bytes that are there and all that there will be, from several threads, one at a time.

        Returns
        -------
        UploadView
            Complete: a job reads it as `upload.ref`.

        Raises
        ------
        InvalidInput
            A subclass that says which file or name cannot be sent.
        QuotaExceeded, DiskFull
            Before the first byte.
        NotAllowed
            Also when the token has ended; what has arrived stays.
        ServerUnreachable
            After ten minutes in which it did not answer.
        """
        return send_files(self, files, is_converted=is_converted, on_begun=on_begun, on_progress=on_progress)

    def begin_upload(self, new: NewUpload) -> UploadView:
        """Begin an upload, or find the one of the same files."""
        body = new.model_dump(mode="json")
        return UploadView.model_validate(self._post("uploads", body, is_repeatable=True))

    def list_uploads(self) -> tuple[UploadView, ...]:
        """List the uploads that were not removed, latest first."""
        return TypeAdapter(tuple[UploadView, ...]).validate_python(self._get("uploads"))

    def missing_files(self, upload_id: str) -> tuple[MissingFile, ...]:
        """List the files of an upload that are not there as a whole."""
        found = self._get(f"uploads/{_part(upload_id)}/missing")
        return TypeAdapter(tuple[MissingFile, ...]).validate_python(found)

    def send_pieces(self, upload_id: str, pieces: list[tuple[Piece, bytes]]) -> tuple[ReceivedFile, ...]:
        """Send pieces of files; hear how much of each of these files is there."""
        response = self._send(
            "PUT",
            f"uploads/{_part(upload_id)}/pieces",
            content=pack(pieces),
            headers={"Content-Type": "application/octet-stream"},
        )
        return TypeAdapter(tuple[ReceivedFile, ...]).validate_python(_json(response))

    def finish_upload(self, upload_id: str) -> UploadView:
        """Say that all files are there; repeat it until the state is `complete`."""
        return UploadView.model_validate(self._post(f"uploads/{_part(upload_id)}/finish", {}))

    def remove_upload(self, upload_id: str) -> None:
        """Remove an upload and its files."""
        self._send("DELETE", f"uploads/{_part(upload_id)}", is_repeatable=True)

    # What a worker asks for

    def open_session(self, request: SessionRequest) -> SessionAnswer:
        return self._worker_post("sessions", request, SessionAnswer)

    def leave(self, session_id: str) -> None:
        self._post(f"worker/sessions/{_part(session_id)}/leave", {})

    def claim(self, session_id: str, request: ClaimRequest | None = None) -> Claim | None:
        body = (request or ClaimRequest()).model_dump(mode="json")
        answer = self._post(f"worker/sessions/{_part(session_id)}/claim", body)
        return None if answer is None else Claim.model_validate(answer)

    def renew(self, job_id: str, attempt: int, request: RenewRequest) -> RenewAnswer:
        # Repeating is left to the worker, which counts its lease from when a renewal was sent.
        return self._worker_post(f"{_attempt(job_id, attempt)}/renew", request, RenewAnswer)

    def append_log(self, job_id: str, attempt: int, token: str, offset: int, data: bytes) -> int:
        """Send log bytes; give the offset that the server has now. `LogGap.offset` says what it has if that is less."""
        response = self._send(
            "POST",
            f"worker/{_attempt(job_id, attempt)}/log",
            params={"offset": offset},
            content=data,
            headers={"X-Attempt-Token": token, "Content-Type": "application/octet-stream"},
        )
        return int(_json(response)["offset"])

    def seal(self, job_id: str, attempt: int, request: SealRequest) -> RenewAnswer:
        """Tell that the result is complete. The order `cancel` means that a cancel came first."""
        return self._worker_post(
            f"{_attempt(job_id, attempt)}/seal", request, RenewAnswer, is_repeatable=True
        )

    def finish(self, job_id: str, attempt: int, request: FinishRequest) -> FinishAnswer:
        return self._worker_post(
            f"{_attempt(job_id, attempt)}/finish", request, FinishAnswer, is_repeatable=True
        )

    def take_publish_order(self, session_id: str) -> PublishOrder | None:
        answer = self._post(f"worker/sessions/{_part(session_id)}/publish-order", {})
        return None if answer is None else PublishOrder.model_validate(answer)

    def take_cleanup_order(self, session_id: str) -> CleanupOrder | None:
        answer = self._post(f"worker/sessions/{_part(session_id)}/cleanup-order", {})
        return None if answer is None else CleanupOrder.model_validate(answer)

    def cleaned(self, job_id: str, attempt: int, request: CleanedRequest) -> None:
        body = request.model_dump(mode="json")
        self._post(f"worker/{_attempt(job_id, attempt)}/cleaned", body, is_repeatable=True)

    def published(self, job_id: str, attempt: int, request: PublishedRequest) -> None:
        body = request.model_dump(mode="json")
        self._post(f"worker/{_attempt(job_id, attempt)}/published", body, is_repeatable=True)

    def lease_dataset(self, job_id: str, attempt: int, request: DatasetLeaseRequest) -> DatasetLeaseAnswer:
        path = f"{_attempt(job_id, attempt)}/dataset-lease"
        return self._worker_post(path, request, DatasetLeaseAnswer, is_repeatable=True)

    def release_dataset(self, job_id: str, attempt: int, request: DatasetLeaseRequest) -> None:
        body = request.model_dump(mode="json")
        self._post(f"worker/{_attempt(job_id, attempt)}/dataset-release", body, is_repeatable=True)

    # Transport

    def _worker_post(
        self, path: str, request: Message, answer: type[_M], *, is_repeatable: bool = False
    ) -> _M:
        body = request.model_dump(mode="json")
        return answer.model_validate(self._post(f"worker/{path}", body, is_repeatable=is_repeatable))

    def _quote(self, path: str, body: Json) -> QuoteView | None:
        found = self._post(path, body, is_repeatable=True)["quote"]
        return None if found is None else QuoteView.model_validate(found)

    def _get(self, path: str, query: Json | None = None) -> Any:
        return _json(self._send("GET", path, params=query, is_repeatable=True))

    def _post(
        self, path: str, body: Json, *, headers: dict[str, str] | None = None, is_repeatable: bool = False
    ) -> Any:
        return _json(self._send("POST", path, json=body, headers=headers, is_repeatable=is_repeatable))

    def _send(self, method: str, path: str, *, is_repeatable: bool = False, **options: Any) -> httpx.Response:
        for wait_s in RETRY_WAITS_S if is_repeatable else ():
            try:
                return self._send_once(method, path, **options)
            except ServerUnreachable:
                time.sleep(wait_s)
        return self._send_once(method, path, **options)

    def _send_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise self._error_of(response)
        return response

    def _copy(self, path: str, stream: BinaryIO) -> str:
        """Write the bytes of an answer; give their SHA-256."""
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    raise self._error_of(response)
                for piece in response.iter_bytes(COPY_BYTES):
                    digest.update(piece)
                    stream.write(piece)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return digest.hexdigest()

    def _stream_job(self, job_id: str) -> Iterator[JobView]:
        try:
            with self._http.stream("GET", f"jobs/{_part(job_id)}/events") as response:
                if response.is_error:
                    response.read()
                    raise self._error_of(response)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield JobDetail.model_validate_json(line.removeprefix("data: ")).job
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ServerUnreachable:
        reason = str(error) or type(error).__name__
        return ServerUnreachable(f"{self.url} does not answer ({reason}); check that the server runs")

    def _error_of(self, response: httpx.Response) -> VoxelworksError:
        """Turn an error answer into the class that the server raised."""
        try:
            body = response.json()
            code, message = str(body["code"]), str(body["message"])
        except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            if response.status_code in (502, 503, 504):
                return ServerUnreachable(
                    f"{self.url} answers {response.status_code}; check that the server runs"
                )
            return VoxelworksError(
                f"{self.url} answers {response.status_code} without a reason; is it a Voxelworks server?"
            )
        if response.status_code == 401:
            return NotAllowed(message)
        error = _error_classes().get(code, VoxelworksError)(message)
        # What a class says beside its message, such as the offset of a `LogGap`.
        error.__dict__.update({key: value for key, value in body.items() if key not in ("code", "message")})
        return error


def is_settled(job: JobView) -> bool:
    """Tell whether nothing more will happen to a job: it has ended, and its files have their name or never will."""
    return job.is_ended and job.publication != "pending"


def _checked_address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parsed.host):
        raise InvalidInput(f"{url!r} is not the address of a server; write http://HOST:PORT")
    return url.rstrip("/")


def _error_classes() -> dict[str, type[VoxelworksError]]:
    found: dict[str, type[VoxelworksError]] = {}
    waiting = [VoxelworksError]
    while waiting:
        kind = waiting.pop()
        # A class without a code of its own inherits one; the class that introduced it stands for it.
        found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found


def _json(response: httpx.Response) -> Any:
    if response.status_code == 204 or not response.content:
        return None
    try:
        return json.loads(response.content)
    except ValueError as error:
        raise VoxelworksError(
            f"{response.url} answers something that is not JSON; is it a Voxelworks server?"
        ) from error


def _part(text: str) -> str:
    """Make a text safe as one part of an address."""
    return quote(text, safe="") or "-"


def _attempt(job_id: str, attempt: int) -> str:
    return f"attempts/{_part(job_id)}/{attempt}"


__all__ = [
    "Client", "EntryView", "FolderView", "RootView", "ServerInfo", "find_server", "is_settled", "server_file",
    "worker_key_file",
]  # fmt: skip
