"""Workers of WEBKNOSSOS on the queue: worker key and run id stand for the attempt, and ends are final."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace

import pytest

from voxelworks import accounts, catalog, jobs
from voxelworks.db import SecretBox
from voxelworks.errors import DatasetNotFound, IllegalTransition, LeaseLost, NotFound
from voxelworks.jobs import ForeignWorker, MadeDataset
from voxelworks.protocol.foreign import ForeignReport
from voxelworks.protocol.views import TERMINAL_STATES, DatasetSummary, LayerSummary
from voxelworks.testing.queues import Queue, at_once
from voxelworks.testing.rounds import rounds
from voxelworks.workflows import get_workflow

MADE = MadeDataset(
    DatasetSummary(
        voxel_size="4,4,40",
        layers=(
            LayerSummary(
                name="color", category="color", dtype="uint8", channel_count=1, box="0,0,0,8,8,8", mags=("1", "2-2-1")
            ),
        ),
    ),
    size_bytes=4096,
)  # fmt: skip
PROPERTIES = {
    "id": {"name": "made", "team": ""},
    "scale": {"factor": [4, 4, 40], "unit": "nanometer"},
    "dataLayers": [
        {
            "name": "color",
            "category": "color",
            "boundingBox": {"topLeft": [0, 0, 0], "width": 8, "height": 8, "depth": 8},
            "elementClass": "uint8",
            "dataFormat": "zarr3",
            "numChannels": 1,
            "mags": [{"mag": [1, 1, 1], "path": "./color/1"}],
        }
    ],
}


@dataclass
class Player:
    """A worker of WEBKNOSSOS that does what a test says."""

    queue: Queue
    worker: ForeignWorker

    @classmethod
    def join(cls, queue: Queue, name: str = "wk", **rights) -> Player:
        secret, key = queue.call(
            accounts.create_worker_key, queue.operator, name, **{"high_slots": 20, "low_slots": 20, **rights}
        )
        return cls(queue, ForeignWorker(key, secret))

    def poll(self, version: str = "1.0"):
        box = SecretBox(self.queue.settings.secret_key_file)
        self.queue.call(jobs.keep_foreign, self.worker, version=version, box=box)
        for _ in range(jobs.CLAIMS_PER_POLL):
            if not self.queue.call(jobs.take_foreign, self.worker, box=box):
                break
        return self.queue.call(jobs.foreign_orders, self.worker, box=box)

    def to_run(self) -> list[str]:
        return [order.root_id for order in self.poll().to_run]

    def to_cancel(self) -> list[str]:
        return [order.root_id for order in self.poll().to_cancel]

    def report(self, job_id: str, state: str, run_id: str | None = "run-1", *, made=None, **more):
        told = ForeignReport(state=state, latest_run_id=run_id, **more)
        return self.queue.call(
            jobs.report_foreign, self.worker, job_id, told, made=made,
            box=SecretBox(self.queue.settings.secret_key_file),
        )  # fmt: skip

    def take(self, **options) -> str:
        """Submit a job and start it."""
        job_id = self.queue.submit(**options).id
        assert job_id in self.to_run()
        self.report(job_id, "STARTED")
        return job_id


@pytest.fixture
def player(queue: Queue) -> Player:
    return Player.join(queue)


def test_a_job_is_polled_started_and_succeeds(queue: Queue, player: Player):
    job_id = queue.submit().id
    (order,) = player.poll().to_run
    assert (order.root_id, order.workflow, order.organization_id) == (
        job_id,
        "find_largest_segment_id",
        "local",
    )
    assert queue.state(job_id) == "claimed"
    player.report(job_id, "STARTED")
    assert queue.state(job_id) == "running"
    assert player.to_run() == [job_id]
    player.report(job_id, "SUCCESS", return_value="12")
    job = queue.show(job_id).job
    assert (job.state, job.publication) == ("succeeded", "none")
    assert job.result.value == {"dataset": "demo", "layer": "segmentation", "largest_segment_id": 12}
    assert player.poll().to_run == player.poll().to_cancel == ()
    assert queue.history(job_id) == ["queued", "claimed", "running", "succeeded"]


def test_the_token_of_the_job_acts_as_its_user_until_the_attempt_ends(queue: Queue, player: Player):
    job_id = player.take()
    (order,) = player.poll().to_run
    principal = queue.call(accounts.principal_of_token, order.user_token)
    assert (principal.user_id, principal.organization_id, principal.entrance) == ("ada", "local", "job")
    assert player.poll().to_run == (order,)
    player.report(job_id, "SUCCESS", return_value="1")
    assert queue.call(accounts.principal_of_token, order.user_token) is None


@pytest.mark.parametrize("returned", [None, "", "many", "-1", "1.5", str(2**64), "9" * 1000])
def test_a_success_without_its_value_is_a_failure(queue: Queue, player: Player, returned):
    job_id = player.take()
    player.report(job_id, "SUCCESS", return_value=returned)
    job = queue.show(job_id).job
    assert (job.state, job.failure_class) == ("failed", "program_error")
    assert job.message.startswith("the worker reported a success, but")


def test_a_failure_keeps_its_details_and_shows_its_message(queue: Queue, player: Player):
    job_id = player.take()
    details = {"message": "layer is empty", "trace": ["a", "b"]}
    player.report(job_id, "FAILURE", error_details=details)
    job = queue.show(job_id).job
    assert (job.state, job.message) == ("failed", "the worker reported a failure: layer is empty")
    assert queue.call(jobs.foreign_runs, [job_id])[job_id].error_details == details


def test_secrets_and_floods_in_details_are_not_stored(queue: Queue, player: Player):
    job_id = player.take()
    player.report(job_id, "FAILURE", error_details={"message": "x" * 70_000})
    stored = queue.call(jobs.foreign_runs, [job_id])[job_id].error_details
    assert list(stored) == ["message"]
    assert len(json.dumps(stored)) < 20_000


def test_repeated_ends_are_welcome_and_other_ends_refused(queue: Queue, player: Player):
    job_id = player.take()
    for _ in range(3):
        player.report(job_id, "SUCCESS", return_value="7")
    for state, value in (("FAILURE", None), ("SUCCESS", "8"), ("STARTED", None), ("PENDING", None)):
        with pytest.raises(LeaseLost):
            player.report(job_id, state, return_value=value)
    player.report(job_id, "CANCELLED")  # says that it stopped, which is always true by now
    assert queue.state(job_id) == "succeeded"
    assert queue.history(job_id).count("succeeded") == 1


def test_a_cancelled_job_is_listed_until_the_worker_says_cancelled(queue: Queue, player: Player):
    job_id = player.take()
    queue.cancel(job_id)
    assert (player.to_run(), player.to_cancel()) == ([], [job_id])
    player.report(job_id, "CANCELLED")
    assert queue.state(job_id) == "cancelled"
    assert player.to_cancel() == []


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_another_end_of_a_cancelled_job_cancels_it_and_leaves_it_listed(queue: Queue, player: Player, state):
    job_id = player.take()
    queue.cancel(job_id)
    player.report(job_id, state, return_value="3")
    assert queue.state(job_id) == "cancelled"
    assert player.to_cancel() == [job_id]
    player.report(job_id, "CANCELLED")
    assert player.to_cancel() == []


def test_a_job_that_no_worker_had_is_never_listed_as_cancelled(queue: Queue, player: Player):
    job_id = queue.submit().id
    queue.cancel(job_id)
    assert player.poll().to_cancel == ()
    with pytest.raises(NotFound):
        player.report(job_id, "CANCELLED")


def test_a_cancel_that_the_server_ends_by_itself_is_still_listed(queue: Queue, player: Player):
    job_id = player.take()
    queue.cancel(job_id)
    queue.advance(queue.settings.cancel_stuck_s + 1)
    assert queue.reap() == 1
    assert queue.state(job_id) == "cancelled"
    assert player.to_cancel() == [job_id]
    player.report(job_id, "CANCELLED")
    assert player.to_cancel() == []


def test_a_worker_may_stop_a_job_by_itself(queue: Queue, player: Player):
    job_id = player.take()
    player.report(job_id, "CANCELLED")
    assert queue.state(job_id) == "cancelled"
    assert queue.show(job_id).job.message == "stopped by the worker"
    assert player.poll().to_cancel == ()


def test_polls_keep_jobs_and_silence_loses_them(queue: Queue, player: Player):
    job_id = player.take()
    for _ in range(3):
        queue.advance(queue.settings.lease_s * 0.9)
        assert player.to_run() == [job_id]
        assert queue.reap() == 0
    queue.advance(queue.settings.lease_s * 1.1)
    assert queue.reap() == 1
    assert queue.state(job_id) == "queued"


def test_a_worker_that_is_heard_from_again_goes_on_if_nobody_took_the_job(queue: Queue, player: Player):
    job_id = player.take()
    queue.advance(queue.settings.lease_s * 1.1)
    queue.reap()
    (order,) = player.poll().to_run
    assert (order.root_id, queue.state(job_id), queue.show(job_id).job.attempt) == (job_id, "running", 1)
    assert queue.call(accounts.principal_of_token, order.user_token).user_id == "ada"
    player.report(job_id, "SUCCESS", return_value="5")
    assert queue.state(job_id) == "succeeded"


def test_a_job_that_went_to_another_worker_is_to_be_stopped_and_not_heard(queue: Queue, player: Player):
    job_id = player.take()
    other = Player.join(queue, "other")
    queue.advance(queue.settings.lease_s * 1.1)
    queue.reap()
    queue.advance(1)
    assert other.to_run() == [job_id]
    other.report(job_id, "STARTED", "run-2")
    assert (player.to_run(), player.to_cancel()) == ([], [job_id])
    with pytest.raises(LeaseLost):
        player.report(job_id, "SUCCESS", return_value="1")
    player.report(job_id, "CANCELLED")
    assert player.to_cancel() == []
    assert queue.state(job_id) == "running"
    other.report(job_id, "SUCCESS", "run-2", return_value="2")
    assert queue.show(job_id).job.result.value["largest_segment_id"] == 2


def test_a_worker_that_was_started_anew_begins_a_new_attempt(queue: Queue, player: Player):
    job_id = player.take()
    assert player.to_run() == [job_id]  # its new process does not know it
    player.report(job_id, "STARTED", "run-2")
    attempts = queue.show(job_id).attempts
    assert [(item.number, item.outcome, item.code) for item in attempts] == [
        (1, "lost", "worker-restarted"),
        (2, None, None),
    ]
    with pytest.raises(LeaseLost):
        player.report(job_id, "SUCCESS", "run-1", return_value="1")
    assert (player.to_run(), player.to_cancel()) == ([job_id], [])
    player.report(job_id, "SUCCESS", "run-2", return_value="2")
    assert queue.show(job_id).job.result.value["largest_segment_id"] == 2


def test_a_job_that_brings_its_worker_down_again_and_again_is_given_up(queue: Queue, player: Player):
    job_id = player.take()
    for number in range(2, 4):
        player.report(job_id, "STARTED", f"run-{number}")
    assert queue.state(job_id) == "running"
    player.report(job_id, "STARTED", "run-4")
    assert queue.state(job_id) == "failed"
    assert (player.to_run(), player.to_cancel()) == ([], [job_id])
    player.report(job_id, "CANCELLED", "run-4")
    assert (queue.state(job_id), player.to_cancel()) == ("failed", [])


def test_what_is_reported_of_an_end_under_another_run_id_is_refused(queue: Queue, player: Player):
    job_id = player.take()
    for state in ("SUCCESS", "FAILURE", "CANCELLED"):
        with pytest.raises(LeaseLost):
            player.report(job_id, state, "run-0", return_value="1")
    assert queue.state(job_id) == "running"


def test_old_workers_without_run_ids_are_understood(queue: Queue, player: Player):
    job_id = queue.submit().id
    player.poll()
    player.report(job_id, "STARTED", None)
    player.report(job_id, "SUCCESS", None, return_value="4")
    assert queue.state(job_id) == "succeeded"


def test_a_repeat_keeps_the_id_and_is_another_run(queue: Queue, player: Player):
    job_id = player.take()
    player.report(job_id, "FAILURE")
    repeat = queue.call(jobs.retry, job_id, by=queue.principal("ada"))
    assert repeat.id != job_id
    assert player.to_run() == [job_id]
    player.report(job_id, "CANCELLED", "run-1")  # late, of the run before
    assert queue.state(repeat.id) == "claimed"
    player.report(job_id, "STARTED", "run-2")
    player.report(job_id, "SUCCESS", "run-2", return_value="9")
    assert (queue.state(job_id), queue.state(repeat.id)) == ("failed", "succeeded")
    chain = queue.call(jobs.chain_of, repeat.id)
    assert (chain.root_id, chain.job_ids) == (job_id, (repeat.id, job_id))


def test_slots_bound_what_a_worker_gets(queue: Queue):
    player = Player.join(queue, high_slots=2, low_slots=1)
    submitted = [queue.submit().id for _ in range(4)]
    assert player.to_run() == submitted[:2]
    player.report(submitted[0], "STARTED")
    player.report(submitted[0], "SUCCESS", return_value="1")
    assert player.to_run() == submitted[1:3]


def test_one_poll_adds_ten_jobs_at_most(queue: Queue, player: Player):
    submitted = [queue.submit().id for _ in range(12)]
    assert player.to_run() == submitted[:10]
    assert player.to_run() == submitted


def test_a_worker_gets_only_the_commands_and_the_organization_of_its_key(queue: Queue):
    mine = queue.submit().id
    conversion = queue.submit_convert("made").id
    assert Player.join(queue, "a", commands=("convert_to_wkw",)).to_run() == [conversion]
    assert Player.join(queue, "b", organization_id="other").to_run() == []
    assert Player.join(queue, "c", commands=("find_largest_segment_id",)).to_run() == [mine]


def test_workflows_without_a_command_are_not_for_such_workers(queue: Queue, player: Player):
    queue.submit(workflow="downsample", params={"layer": "demo/segmentation"})
    assert player.to_run() == []


def test_a_worker_reports_only_on_jobs_that_it_had(queue: Queue, player: Player):
    job_id = player.take()
    other = Player.join(queue, "other")
    for state in ("STARTED", "SUCCESS", "CANCELLED"):
        with pytest.raises(NotFound):
            other.report(job_id, state)
    assert queue.state(job_id) == "running"


def test_a_drained_worker_ends_its_jobs_and_gets_no_more(queue: Queue, player: Player):
    job_id = player.take()
    (name,) = [worker.name for worker in queue.call(jobs.list_workers)]
    queue.call(jobs.drain_worker, name, by=queue.operator)
    queue.submit()
    assert player.to_run() == [job_id]


def test_two_keys_of_one_name_are_two_workers(queue: Queue):
    first, second = Player.join(queue, "twin"), Player.join(queue, "twin")
    job_id = queue.submit().id
    assert (first.to_run(), second.to_run(), first.to_run()) == ([job_id], [], [job_id])


def test_the_version_of_a_worker_is_shown(queue: Queue, player: Player):
    player.poll("1.0")
    player.poll("2.0")
    (worker,) = queue.call(jobs.list_workers)
    known = (
        "compute_segment_index_file",
        "convert",
        "find_largest_segment_id",
        "materialize_volume_annotation",
    )
    assert (worker.version, worker.workflows) == ("2.0", dict.fromkeys(known, 1))


def test_a_conversion_enters_the_catalog(queue: Queue, player: Player):
    job_id = queue.submit_convert("made").id
    player.poll()
    player.report(job_id, "STARTED")
    place = queue.call(jobs.awaited_place, player.worker, job_id, ForeignReport(state="SUCCESS"))
    assert place == "data:local/made"
    folder = queue.settings.datasets_dir / "local" / "made"
    folder.mkdir(parents=True)
    (folder / "datasource-properties.json").write_text(json.dumps(PROPERTIES))
    remains = player.report(job_id, "SUCCESS", made=MADE)
    job = queue.show(job_id).job
    assert (job.state, job.publication) == ("succeeded", "published")
    assert job.result.value == {
        "dataset": "made", "layers": ["color"], "voxel_size": "4,4,40", "mags": ["1", "2-2-1"],
    }  # fmt: skip
    dataset = queue.call(catalog.find, "made", by=queue.principal("ada"))
    assert (dataset.made_by_job, dataset.size_bytes, dataset.user_id) == (job_id, 4096, "ada")
    assert (remains.is_half_made, remains.place) == (False, "data:local/made")


def test_a_conversion_that_left_nothing_is_a_failure_and_frees_the_name(queue: Queue, player: Player):
    job_id = queue.submit_convert("made").id
    player.poll()
    player.report(job_id, "STARTED")
    remains = player.report(job_id, "SUCCESS")
    assert queue.state(job_id) == "failed"
    assert remains.is_half_made
    assert queue.submit_convert("made").state == "queued"


def test_what_another_job_makes_is_not_put_away(queue: Queue, player: Player):
    job_id = queue.submit_convert("made").id
    player.poll()
    player.report(job_id, "STARTED")
    player.report(job_id, "FAILURE")
    queue.submit_convert("made")
    assert player.report(job_id, "FAILURE") is None


def test_a_name_is_kept_while_its_place_is_cleared(queue: Queue, player: Player):
    place = "data:local/made"
    job_id = queue.submit_convert("made").id
    player.poll()
    player.report(job_id, "FAILURE")
    submitted: list[str] = []
    late = threading.Thread(target=lambda: submitted.append(queue.submit_convert("made").id))
    with queue.database.session() as session, jobs.forgotten_at(session, place) as remains:
        assert remains == jobs.Remains(place, is_half_made=True)
        late.start()
        late.join(0.5)
        assert late.is_alive()
    late.join(30)
    assert len(submitted) == 1
    with queue.database.session() as session, jobs.forgotten_at(session, place) as remains:
        assert remains is None


def test_nothing_is_forgotten_where_no_such_worker_was_to_make_anything(queue: Queue, player: Player):
    other = queue.submit_convert("other").id
    queue.cancel(other)
    for place in ("data:local/other", "data:local/unknown", "data:local/ma_e"):
        with queue.database.session() as session, jobs.forgotten_at(session, place) as remains:
            assert remains is None


def test_an_inference_names_the_dataset_that_it_made(
    queue: Queue, player: Player, monkeypatch: pytest.MonkeyPatch
):
    job_id = player.take()
    declared = get_workflow("find_largest_segment_id")
    inference = replace(declared, foreign=(replace(declared.foreign[0], command="infer_nuclei"),))
    monkeypatch.setattr("voxelworks.jobs._foreign_reports.get_workflow", lambda name: inference)
    with pytest.raises(DatasetNotFound):
        queue.call(jobs.attach_foreign_dataset, player.worker, job_id, "nothing")
    queue.call(jobs.attach_foreign_dataset, player.worker, job_id, "demo")
    demo = queue.call(catalog.find, "demo", by=queue.principal("ada"))
    assert queue.call(jobs.foreign_runs, [job_id])[job_id].dataset_id == demo.id


def test_the_workers_own_report_is_noted(queue: Queue, player: Player):
    job_id = player.take()
    queue.call(jobs.attach_foreign_workflow, player.worker, job_id, "abc123")
    assert queue.call(jobs.foreign_runs, [job_id])[job_id].workflow_hash == "abc123"
    with pytest.raises(NotFound):
        queue.call(jobs.attach_foreign_dataset, player.worker, job_id, "demo")
    with pytest.raises(NotFound):
        queue.call(jobs.attach_foreign_workflow, player.worker, "0" * 16, "abc123")


def test_polls_reports_and_cancels_at_once_end_a_job_once(queue: Queue, player: Player):
    for _ in range(rounds(8, 300)):
        job_id = player.take()
        outcomes = at_once([
            player.poll, player.poll, lambda: queue.cancel(job_id),  # noqa: B023 - called within the round
            lambda: player.report(job_id, "SUCCESS", return_value="1"),  # noqa: B023
            lambda: player.report(job_id, "FAILURE"),  # noqa: B023
            lambda: player.report(job_id, "STARTED"),  # noqa: B023
        ])  # fmt: skip
        wrong = [item for item in outcomes if isinstance(item, Exception)]
        assert all(isinstance(item, LeaseLost | IllegalTransition) for item in wrong), wrong
        player.report(job_id, "CANCELLED")
        history = queue.history(job_id)
        assert history[-1] in TERMINAL_STATES
        assert sum(state in TERMINAL_STATES for state in history) == 1
        assert player.to_cancel() == []


def test_states_are_counted_without_what_was_repeated(queue: Queue, player: Player):
    job_id = player.take()
    player.report(job_id, "FAILURE")
    queue.call(jobs.retry, job_id, by=queue.principal("ada"))
    queue.submit()
    assert queue.call(jobs.count_states, "local") == {("queued", "none", False): 2}
    assert queue.call(jobs.count_states, "other") == {}


def test_a_success_is_not_repeated(queue: Queue, player: Player):
    job_id = player.take()
    player.report(job_id, "SUCCESS", return_value="1")
    with pytest.raises(IllegalTransition):
        queue.call(jobs.retry, job_id, by=queue.principal("ada"))
