"""What a worker asks for: work, the leases of it, and what is to be done with its results."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from voxelworks.client._transport import Transport, json_of, path_part
from voxelworks.protocol.messages import (
    Claim,
    ClaimRequest,
    CleanedRequest,
    CleanupOrder,
    DatasetLeaseAnswer,
    DatasetLeaseRequest,
    FinishAnswer,
    FinishRequest,
    Message,
    PublishedRequest,
    PublishOrder,
    RenewAnswer,
    RenewRequest,
    SealRequest,
    SessionAnswer,
    SessionRequest,
)

_M = TypeVar("_M", bound=BaseModel)


class WorkerCalls(Transport):
    """What a worker can ask for, with the worker key."""

    def open_session(self, request: SessionRequest) -> SessionAnswer:
        return self._worker_post("sessions", request, SessionAnswer)

    def leave(self, session_id: str) -> None:
        self._post(f"worker/sessions/{path_part(session_id)}/leave", {})

    def claim(self, session_id: str, request: ClaimRequest | None = None) -> Claim | None:
        body = (request or ClaimRequest()).model_dump(mode="json")
        answer = self._post(f"worker/sessions/{path_part(session_id)}/claim", body)
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
        return int(json_of(response)["offset"])

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
        answer = self._post(f"worker/sessions/{path_part(session_id)}/publish-order", {})
        return None if answer is None else PublishOrder.model_validate(answer)

    def take_cleanup_order(self, session_id: str) -> CleanupOrder | None:
        answer = self._post(f"worker/sessions/{path_part(session_id)}/cleanup-order", {})
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

    def _worker_post(
        self, path: str, request: Message, answer: type[_M], *, is_repeatable: bool = False
    ) -> _M:
        body = request.model_dump(mode="json")
        return answer.model_validate(self._post(f"worker/{path}", body, is_repeatable=is_repeatable))


def _attempt(job_id: str, attempt: int) -> str:
    return f"attempts/{path_part(job_id)}/{attempt}"
