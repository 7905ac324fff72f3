"""What a job would cost, before anybody agreed to it; and boxes and mags that a layer does not have."""

from dataclasses import replace

import pytest

from paid_work import installed, with_credits
from voxelworks import jobs
from voxelworks.credits._tables import QuoteRow
from voxelworks.errors import InvalidGeometry, MagNotFound, NotAllowed
from voxelworks.protocol.messages import NewJob

LAYER = {"layer": "demo/segmentation", "target": "made"}


@pytest.fixture
def paying(queue):
    with installed():
        yield with_credits(queue)


def price(queue, who="ada", **params):
    return queue.call(
        jobs.price, by=queue.principal(who), workflow="make_segmented", params={**LAYER, **params}
    )


def test_a_price_says_what_it_is_for_and_promises_nothing(paying):
    told = price(paying)
    assert (told.size, told.mag) == ("64,64,64", "1")
    assert told.price is not None
    assert (told.price.quantity, told.price.price, told.price.amount, told.price.available) == (
        64**3, 1000, 0, 1_000_000,
    )  # fmt: skip
    half = price(paying, box="0,0,0,64,64,32")
    assert (half.size, half.price.quantity) == ("64,64,32", 64 * 64 * 32)
    with paying.database.read_session() as session:
        assert session.query(QuoteRow).count() == 0
    reader = replace(paying.principal("ada"), scopes=("read",))
    with pytest.raises(NotAllowed):
        paying.call(jobs.price, by=reader, workflow="make_segmented", params=LAYER)


def test_a_free_job_has_no_price(queue):
    told = queue.call(
        jobs.price, by=queue.principal("ada"), workflow="downsample", params={"layer": "demo/segmentation"}
    )
    assert (told.price, told.size) == (None, None)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            {"box": "0,0,0,65,64,64"},
            InvalidGeometry,
            (
                "'0,0,0,65,64,64' leaves layer segmentation, which is 0,0,0,64,64,64; the part inside it is "
                "0,0,0,64,64,64"
            ),
        ),
        ({"box": "100,0,0,1,1,1"}, InvalidGeometry, "choose one inside it"),
        ({"box": "0,0,0,0,1,1"}, InvalidGeometry, "is empty; each side must be 1 voxel or more"),
        ({"mag": "2"}, MagNotFound, "layer segmentation has no mag '2'; it has 1"),
    ],
)
def test_a_part_that_a_layer_does_not_have_is_refused_before_anything_is_charged(
    paying, params, error, message
):
    for call in (jobs.price, jobs.quote, jobs.submit):
        with pytest.raises(error, match=message):
            paying.call(
                call, by=paying.principal("ada"), workflow="make_segmented", params={**LAYER, **params}
            )
    assert paying.list_jobs().jobs == ()


def test_the_same_submission_is_found_by_its_key(queue):
    by = queue.principal("ada")
    one = [NewJob(workflow="downsample", params={"layer": "demo/segmentation"})]
    two = [NewJob(key="a", workflow="downsample", params={"layer": "demo/segmentation"}), *one]

    def found(new, key, who="ada"):
        return queue.call(jobs.find_submitted, by=queue.principal(who), jobs=new, idempotency_key=key)

    assert found(one, "k") == ()
    job = queue.submit(workflow="downsample", params=one[0].params, idempotency_key="k")
    group = queue.call(jobs.submit_group, by=by, jobs=two, idempotency_key="g")
    assert found(one, "k") == (job.id,)
    assert set(found(two, "g")) == {member.id for member in group}
    assert found(one, "g") == found(two, "k") == found(one, "k", "ben") == ()
