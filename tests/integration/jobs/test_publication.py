import threading

import pytest

from voxelworks import catalog, jobs
from voxelworks.errors import LeaseLost, NotAllowed
from voxelworks.geometry import MAG1, Box, VoxelSize
from voxelworks.protocol.messages import DatasetLeaseRequest, PublishedRequest, SealedResult
from voxelworks.protocol.views import DatasetSummary, LayerSummary
from voxelworks.testing.queues import LARGEST_ID
from voxelworks.volumes.metadata import DataSource, LayerProperties, MagProperties

CORTEX = SealedResult(
    kind="dataset", place="data:local/cortex", value={"dataset": "cortex", "layers": ["color"]}
)


def _published(queue, claim, **told):
    queue.call(jobs.published, claim.job_id, claim.attempt, PublishedRequest(token=claim.token, **told))


def _lease(queue, claim, place="data:local/demo"):
    request = DatasetLeaseRequest(token=claim.token, place=place)
    return queue.call(jobs.lease_dataset, claim.job_id, claim.attempt, request)


def _release(queue, claim):
    request = DatasetLeaseRequest(token=claim.token, place="data:local/demo")
    queue.call(jobs.release_dataset, claim.job_id, claim.attempt, request)


def _finished(queue, worker=None):
    queue.submit()
    claim = queue.claim_and_start(worker or queue.open_worker())
    assert queue.succeed(claim).publish
    return claim


def _finished_convert(queue, worker=None):
    queue.submit_convert("cortex")
    claim = queue.claim_and_start(worker or queue.open_worker())
    assert queue.succeed(claim, CORTEX).publish
    return claim


def _write_cortex(queue):
    layer = LayerProperties(
        name="color", category="color", bounding_box=Box.parse("0,0,0,8,8,8"), element_class="uint8",
        data_format="zarr3", mags=(MagProperties.of("color", MAG1),),
    )  # fmt: skip
    source = DataSource.new("cortex", VoxelSize(4, 4, 40)).with_layer(layer)
    folder = queue.settings.datasets_dir / "local" / "cortex"
    folder.mkdir(parents=True)
    (folder / "datasource-properties.json").write_text(source.to_json())


def test_a_published_dataset_is_in_the_catalog(queue):
    claim = _finished_convert(queue)
    _write_cortex(queue)
    _published(queue, claim)
    dataset = queue.call(catalog.find, "cortex", by=queue.principal("ada"))
    assert (dataset.place, dataset.made_by_job) == ("data:local/cortex", claim.job_id)
    assert dataset.summary == DatasetSummary(
        voxel_size="4,4,40",
        layers=(
            LayerSummary(
                name="color", category="color", dtype="uint8", channel_count=1, box="0,0,0,8,8,8", mags=("1",)
            ),
        ),
    )
    view = queue.show(claim.job_id).job
    assert (view.publication, view.publish_error) == ("published", None)
    assert view.published_ms is not None


def test_a_dataset_is_not_in_the_catalog_before_it_is_published(queue):
    _finished_convert(queue)
    with queue.database.read_session() as session:
        assert [dataset.name for dataset in catalog.list_datasets(session, by=queue.principal("ada"))] == [
            "demo"
        ]


def test_the_name_stays_reserved_until_the_dataset_is_there(queue):
    claim = _finished_convert(queue)
    with pytest.raises(Exception, match="is making it"):
        queue.submit_convert("cortex")
    _published(queue, claim)
    with pytest.raises(Exception, match="it exists"):
        queue.submit_convert("cortex")


def test_metadata_that_the_server_cannot_read_does_not_undo_a_result(queue):
    claim = _finished_convert(queue)
    _published(queue, claim)
    assert queue.call(catalog.find, "cortex", by=queue.principal("ada")).summary == DatasetSummary(
        voxel_size=None, layers=()
    )
    assert queue.show(claim.job_id).events[-1].why == (
        "the result is published, but the server cannot read its metadata (data:local/cortex holds neither "
        "datasource-properties.json nor an OME-Zarr image; name the folder of a dataset)"
    )


def test_confirming_again_changes_nothing(queue):
    claim = _finished(queue)
    _published(queue, claim)
    before = queue.show(claim.job_id)
    _published(queue, claim)
    assert queue.show(claim.job_id).events == before.events


def test_a_result_that_cannot_be_published_says_why(queue):
    claim = _finished_convert(queue)
    _published(queue, claim, error="somebody made the folder cortex meanwhile")
    view = queue.show(claim.job_id).job
    assert (view.state, view.publication) == ("succeeded", "failed")
    assert view.publish_error == "somebody made the folder cortex meanwhile"
    assert queue.submit_convert("cortex").state == "queued"  # the name is free again


def test_nobody_is_ordered_to_publish_while_the_worker_does_it(queue):
    claim = _finished(queue)
    other = queue.open_worker("other")
    for _ in range(5):
        queue.advance(queue.settings.lease_s - 1)
        assert queue.renew(claim).order == "continue"
        assert queue.call(jobs.take_publish_order, other) is None


def test_if_the_worker_dies_another_one_publishes(queue):
    claim = _finished(queue)
    queue.advance(queue.settings.lease_s + 1)
    other = queue.open_worker("other")
    order = queue.call(jobs.take_publish_order, other)
    assert order is not None
    assert order.model_dump(exclude={"token"}) == {
        "job_id": claim.job_id,
        "attempt": 1,
        "work_key": claim.job_id,
        "result": LARGEST_ID.model_dump(),
    }
    assert queue.call(jobs.take_publish_order, other) is None
    with pytest.raises(LeaseLost, match="another worker publishes"):
        _published(queue, claim)
    assert queue.renew(claim).order == "lost"
    _published(queue, order)
    assert queue.show(claim.job_id).job.publication == "published"
    assert queue.show(claim.job_id).events[-1].who == "worker:other"


def test_a_worker_that_starts_anew_leaves_its_publication_to_others_at_once(queue):
    claim = _finished(queue, queue.open_worker("gpu"))
    again = queue.open_worker("gpu")
    order = queue.call(jobs.take_publish_order, again)
    assert order is not None
    assert order.job_id == claim.job_id


def test_an_order_that_nobody_carries_out_is_given_again(queue):
    _finished(queue)
    tokens = set()
    for number in range(3):
        queue.advance(queue.settings.lease_s + 1)
        order = queue.call(jobs.take_publish_order, queue.open_worker(f"worker {number}"))
        tokens.add(order.token)
    assert len(tokens) == 3
    _published(queue, order)


def test_a_published_result_is_not_published_again(queue):
    _published(queue, _finished(queue))
    queue.advance(10 * queue.settings.lease_s)
    assert queue.call(jobs.take_publish_order, queue.open_worker("other")) is None


# The lease on a dataset


def test_one_publisher_has_the_dataset_at_a_time(queue):
    worker = queue.open_worker()
    first, second = _finished(queue, worker), _finished(queue, worker)
    assert _lease(queue, first).held
    refused = _lease(queue, second)
    assert not refused.held
    assert 0 < refused.lease_s <= queue.settings.dataset_lease_s
    assert _lease(queue, first).held  # it may ask again
    _release(queue, first)
    assert _lease(queue, second).held


def test_confirming_gives_the_dataset_back(queue):
    worker = queue.open_worker()
    first, second = _finished(queue, worker), _finished(queue, worker)
    _lease(queue, first)
    _published(queue, first)
    assert _lease(queue, second).held


def test_a_dataset_lease_runs_out(queue):
    worker = queue.open_worker()
    first, second = _finished(queue, worker), _finished(queue, worker)
    _lease(queue, first)
    queue.advance(queue.settings.dataset_lease_s + 1)
    assert _lease(queue, second).held
    assert not _lease(queue, first).held


def test_giving_back_what_another_holds_changes_nothing(queue):
    worker = queue.open_worker()
    first, second, third = (_finished(queue, worker) for _ in range(3))
    _lease(queue, first)
    _release(queue, second)
    assert not _lease(queue, third).held


def test_only_the_dataset_of_the_result_can_be_leased(queue):
    with pytest.raises(NotAllowed, match="is not in 'data:local/cortex'"):
        _lease(queue, _finished(queue), "data:local/cortex")


def test_a_running_job_leases_no_dataset(queue):
    queue.submit()
    with pytest.raises(LeaseLost):
        _lease(queue, queue.claim_and_start(queue.open_worker()))


def test_a_published_job_leases_no_dataset(queue):
    claim = _finished(queue)
    _published(queue, claim)
    with pytest.raises(LeaseLost, match="is published; there is nothing left to change"):
        _lease(queue, claim)


def test_eight_publishers_at_once_take_turns(queue):
    worker = queue.open_worker()
    claims = [_finished(queue, worker) for _ in range(8)]
    inside, most_inside, order = 0, 0, []
    counting = threading.Lock()

    def publish(claim):
        nonlocal inside, most_inside
        while not _lease(queue, claim).held:
            threading.Event().wait(0.005)
        with counting:
            inside += 1
            most_inside = max(most_inside, inside)
        order.append(claim.job_id)
        with counting:
            inside -= 1
        _published(queue, claim)

    threads = [threading.Thread(target=publish, args=(claim,)) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most_inside == 1
    assert sorted(order) == sorted(claim.job_id for claim in claims)
