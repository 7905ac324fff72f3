"""Making accepted results visible, and removing what nobody will publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from voxelworks.client import Client
from voxelworks.errors import InvalidInput, StorageFailed, VoxelworksError
from voxelworks.protocol.messages import (
    CleanedRequest,
    CleanupOrder,
    DatasetLeaseRequest,
    Json,
    PublishedRequest,
    PublishOrder,
)
from voxelworks.protocol.places import ARTIFACT, PREVIEWS_OF, Places
from voxelworks.worker.lease import may_pass, until_answered
from voxelworks.workflows import NewDatasetRef, NewModelRef, Params, Workflow, get_workflow, references
from voxelworks.workflows.publishing import AttemptFolder, publish

DATASET_WAIT_S = 2.0
"""Longest pause before asking again for a dataset that another job is adding to."""

_logger = logging.getLogger(__name__)


class Publisher:
    """Publishes sealed results: those of this worker, and those of workers that died before they could."""

    def __init__(self, client: Client, places: Places) -> None:
        self._client = client
        self._places = places

    def publish(self, order: PublishOrder, *, may_go_on: Callable[[], bool]) -> bool:
        """Publish and tell the server; False if it failed for now and is left to a later publish order.

        What can never succeed is told as an error.

        Parameters
        ----------
        order
        may_go_on
            Asked at the start and while waiting; once it says no, the server may have given the order to another
            worker.
        """
        if not may_go_on():
            _logger.warning("job %s: the lease is over; a publish order will come", order.job_id)
            return False
        told = PublishedRequest(token=order.token)
        try:
            self._make_visible(order, may_go_on)
        except InvalidInput as error:
            told = PublishedRequest(token=order.token, error=error.message)
        except StorageFailed as error:
            if error.__cause__ is not None:
                # The file system did not answer; that may pass.
                _logger.warning("job %s: not published yet: %s", order.job_id, error)
                return False
            told = PublishedRequest(token=order.token, error=error.message)
        until_answered(
            lambda: self._client.published(order.job_id, order.attempt, told), give_up=lambda: not may_go_on()
        )
        _logger.info(
            "job %s: %s", order.job_id, f"cannot be published: {told.error}" if told.error else "published"
        )
        return True

    def clean_up(self, order: CleanupOrder) -> None:
        """Remove what the attempts of an ended job have left, and tell the server.

        What fails is left to a later order.
        """
        try:
            _, folder = self.target_of(order)
            if folder is not None:
                folder.discard()
            self._client.cleaned(order.job_id, order.attempt, CleanedRequest(token=order.token))
        except (VoxelworksError, OSError) as error:
            _logger.warning("job %s: its work folder may stay for now: %s", order.job_id, error)

    def discard_debris(self, order: CleanupOrder) -> None:
        """Remove what an attempt wrote after another had taken the job over."""
        try:
            _, folder = self.target_of(order)
            if folder is not None:
                folder.discard_debris()
        except (VoxelworksError, OSError) as error:
            _logger.warning("job %s: some files stay: %s", order.job_id, error)

    def _make_visible(self, order: PublishOrder, may_go_on: Callable[[], bool]) -> None:
        result = order.result
        if result.kind == "value" or result.place is None:
            return
        target = self._places.locate(result.place)
        if result.kind in ("dataset", "model", "artifact"):
            publish(result, target, work_key=order.work_key, attempt=order.attempt)
            return
        with self._dataset(order, result.place, may_go_on):
            publish(result, target, work_key=order.work_key, attempt=order.attempt)

    @contextmanager
    def _dataset(self, order: PublishOrder, place: str, may_go_on: Callable[[], bool]) -> Iterator[None]:
        """Hold the dataset: two jobs that add to it at once would each lose the other's change."""
        request = DatasetLeaseRequest(token=order.token, place=place)
        while True:
            answer = until_answered(
                lambda: self._client.lease_dataset(order.job_id, order.attempt, request),
                give_up=lambda: not may_go_on(),
            )
            if answer.held:
                break
            if not may_go_on():
                raise StorageFailed(f"{place} is held by another job for too long") from TimeoutError()
            time.sleep(min(answer.lease_s, DATASET_WAIT_S) or DATASET_WAIT_S)
        try:
            yield
        finally:
            try:
                self._client.release_dataset(order.job_id, order.attempt, request)
            except VoxelworksError as error:
                if not may_pass(error):
                    raise
                _logger.warning("%s stays held until its lease ends: %s", place, error)

    def target_of(self, order: CleanupOrder) -> tuple[str | None, AttemptFolder | None]:
        """Find the place that a job writes to, and the folder of its attempt; None and None if it leaves no files."""
        workflow = get_workflow(order.workflow)
        kind = workflow.outcome_type.kind
        refs = list(references(_parse(workflow, order.params)))
        if kind == "value" or not refs:
            return None, None
        ref = next((ref for ref in refs if isinstance(ref, NewDatasetRef | NewModelRef)), refs[0])
        if kind == "artifact":
            place = order.places[ARTIFACT]
        else:
            place = order.places[PREVIEWS_OF + ref if kind == "previews" else str(ref)]
        folder = AttemptFolder.for_target(kind, self._places.locate(place), order.work_key, order.attempt)
        return place, folder


def _parse(workflow: Workflow, params: Json) -> Params:
    """Read params, also those from before the workflow's last change of meaning."""
    try:
        return workflow.parse(params)
    except InvalidInput:
        if workflow.upgrade is None:
            raise
        return workflow.parse(workflow.upgrade(params))
