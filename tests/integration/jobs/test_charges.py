"""What a job costs is held, settled or returned in the very transactions that move it."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from paid_work import PRICE, available, books_differ, installed, with_credits
from voxelworks import catalog, credits, jobs
from voxelworks.errors import (
    IllegalTransition,
    InvalidInput,
    NotAllowed,
    NotEnoughCredits,
    NotFound,
    StaleQuote,
)
from voxelworks.notify._tables import OutboxRow
from voxelworks.protocol.messages import NewJob
from voxelworks.testing.queues import DEMO, at_once
from voxelworks.testing.rounds import rounds

SEGMENT = {"workflow": "segment"}
PARAMS = {"layer": "demo/segmentation"}


@pytest.fixture(autouse=True)
def _workflows():
    with installed():
        yield


@pytest.fixture
def paying(queue):
    return with_credits(queue, 10_000)


def _mails(queue):
    with queue.database.read_session() as session:
        return [
            (row.recipient, row.state, row.context["state"])
            for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))
        ]


def test_a_submission_holds_the_price(paying):
    job = paying.submit(**SEGMENT)
    assert (job.charge_millicredits, job.refunded_millicredits) == (PRICE, 0)
    assert available(paying) == (10_000 - PRICE, PRICE)


def test_a_success_settles_it(paying):
    job = paying.submit(**SEGMENT)
    claim = paying.claim_and_start(paying.open_worker())
    paying.succeed(claim)
    paying.publish(claim)
    assert available(paying) == (10_000 - PRICE, 0)
    assert paying.show(job.id).job.refunded_millicredits == 0


@pytest.mark.parametrize(
    "how", ["user_input", "program_error", "cancelled", "cancelled while running", "lost"]
)
def test_every_other_end_returns_it(paying, how):
    job = paying.submit(**SEGMENT)
    if how == "cancelled":
        paying.cancel(job.id)
    elif how == "lost":
        for number in range(3):
            paying.claim_and_start(paying.open_worker(f"worker {number}"))
            paying.advance(paying.settings.lease_s + 1)
            paying.reap()
            paying.advance(1)
    else:
        claim = paying.claim_and_start(paying.open_worker())
        if how == "cancelled while running":
            paying.cancel(job.id)
            assert available(paying) == (10_000 - PRICE, PRICE)  # until it has stopped
            paying.finish(claim, outcome="cancelled")
        else:
            paying.fail(claim, how)
    view = paying.show(job.id).job
    assert view.state in ("failed", "cancelled")
    assert (view.charge_millicredits, view.refunded_millicredits) == (PRICE, PRICE)
    assert available(paying) == (10_000, 0)
    assert books_differ(paying) == ()


def test_a_retry_of_its_own_keeps_the_hold_and_says_nothing(paying):
    paying.submit(**SEGMENT)
    paying.fail(paying.claim_and_start(paying.open_worker()), "infrastructure")
    assert available(paying) == (10_000 - PRICE, PRICE)
    assert _mails(paying) == []


def test_a_failure_is_told_once_with_its_refund(paying):
    paying.submit(**SEGMENT)
    paying.fail(paying.claim_and_start(paying.open_worker()), "user_input", message="the layer is empty")
    assert _mails(paying) == [("ada@example.org", "due", "failed")]
    with paying.database.read_session() as session:
        told = session.scalars(select(OutboxRow)).one().context
    assert (told["charged"], told["returned"], told["message"]) == (PRICE, PRICE, "the layer is empty")
    assert (told["workflow"], told["subject_line"], told["user_name"]) == ("segment", "demo", "Ada")


def test_a_success_is_told_when_its_result_can_be_seen(paying):
    paying.submit(**SEGMENT)
    claim = paying.claim_and_start(paying.open_worker())
    paying.succeed(claim)
    assert _mails(paying) == [("ada@example.org", "held", "succeeded")]
    paying.publish(claim)
    assert _mails(paying) == [("ada@example.org", "due", "succeeded")]


def test_a_result_that_cannot_be_published_is_told_as_a_failure_and_paid_back(paying):
    job = paying.submit(**SEGMENT)
    claim = paying.claim_and_start(paying.open_worker())
    paying.succeed(claim)
    assert available(paying) == (10_000 - PRICE, 0)
    for _ in range(2):
        paying.publish(claim, error="the folder exists")
    assert _mails(paying) == [("ada@example.org", "due", "failed")]
    with paying.database.read_session() as session:
        told = session.scalars(select(OutboxRow)).one().context
    assert (told["charged"], told["returned"], told["message"]) == (PRICE, PRICE, "the folder exists")
    with paying.database.read_session() as session:
        [bought] = credits.balance(session, "local").grants
    assert (bought.kind, bought.available, bought.spent, bought.expires_ms) == ("paid", 10_000, 0, None)
    assert paying.show(job.id).job.refunded_millicredits == PRICE
    assert books_differ(paying) == ()


def test_a_job_that_the_organization_cannot_pay_is_refused_whole(queue):
    poor = with_credits(queue, PRICE - 1)
    with pytest.raises(NotEnoughCredits):
        poor.submit(**SEGMENT, idempotency_key="k1")
    assert poor.list_jobs().jobs == ()
    poor.call(credits.grant, "local", 1, kind="paid", who="user:local")
    assert poor.submit(**SEGMENT, idempotency_key="k1").state == "queued"


def test_members_may_not_submit_what_costs_something(paying):
    with pytest.raises(NotAllowed):
        paying.submit(**SEGMENT, by=paying.principal("ben"))
    assert paying.submit(**SEGMENT, by=paying.principal("dan")).owner == "Dan"


def test_a_quote_is_the_charge(paying):
    quote = paying.call(jobs.quote, by=paying.principal("ada"), params=PARAMS, **SEGMENT)
    assert (quote.amount, quote.has_enough) == (PRICE, True)
    assert paying.list_jobs().jobs == ()
    job = paying.submit(**SEGMENT, quote_id=quote.id)
    assert job.charge_millicredits == PRICE
    paying.advance(16 * 60)
    with pytest.raises(StaleQuote):
        paying.submit(**SEGMENT, quote_id=quote.id)


def test_free_jobs_have_no_quote_and_no_charge(paying):
    ada = paying.principal("ada")
    assert paying.call(jobs.quote, by=ada, workflow="find_largest_segment_id", params=PARAMS) is None
    job = paying.submit()
    assert (job.charge_millicredits, job.refunded_millicredits) == (None, None)


def test_the_price_follows_the_voxels_of_the_layer_in_the_mag(paying):
    ada = paying.principal("ada")
    layer = DEMO.layers[0].model_copy(update={"mags": ("1", "2")})
    paying.call(
        catalog.register, organization_id="local", user_id="ada", name="pyramid", place="data:local/pyramid",
        summary=DEMO.model_copy(update={"layers": (layer,)}),
    )  # fmt: skip
    params = {"layer": "pyramid/segmentation", "target": "made"}
    full, coarse = (
        paying.call(jobs.quote, by=ada, workflow="make_segmented", params={**params, **mag})
        for mag in ({}, {"mag": "2"})
    )
    assert (full.quantity, coarse.quantity) == (64**3, 32**3)


def test_with_credits_off_nothing_is_charged(queue):
    job = queue.submit(**SEGMENT)
    assert job.charge_millicredits is None
    queue.cancel(job.id)
    assert available(queue) == (0, 0)


def test_a_repeated_job_is_charged_again(paying):
    job = paying.submit(**SEGMENT)
    paying.cancel(job.id)
    again = paying.retry(job.id)
    assert again.charge_millicredits == PRICE
    assert available(paying) == (10_000 - PRICE, PRICE)


def test_what_is_returned_is_counted(paying):
    worker = paying.open_worker()
    for _ in range(2):
        paying.submit(**SEGMENT)
    paying.fail(paying.claim_and_start(worker), "user_input")
    seen = paying.call(jobs.metrics)
    assert (seen.refunds, seen.refunded_millicredits) == (1, PRICE)


def test_an_operator_repeats_a_job_at_no_charge_and_without_a_second_failure_mail(paying):
    job = paying.submit(**SEGMENT)
    worker = paying.open_worker()
    paying.fail(paying.claim_and_start(worker), "user_input")
    with pytest.raises(NotAllowed):
        paying.retry(job.id, is_free=True)
    again = paying.retry(job.id, by=paying.operator, is_free=True)
    assert (again.user_id, again.charge_millicredits) == ("ada", None)
    paying.fail(paying.claim_and_start(worker), "user_input")
    assert _mails(paying) == [("ada@example.org", "due", "failed")]
    once_more = paying.retry(again.id, by=paying.operator, is_free=True)
    claim = paying.claim_and_start(worker)
    assert claim.job_id == once_more.id
    paying.succeed(claim)
    paying.publish(claim)
    assert [state for _, _, state in _mails(paying)] == ["failed", "succeeded"]


def test_nobody_spends_the_credits_of_another_organization(paying):
    """An operator who asks from outside repeats at no charge, and has no price to agree to."""
    demo = {"name": "demo", "place": "data:other/demo", "summary": DEMO}
    paying.call(catalog.register, organization_id="other", user_id="cleo", **demo)
    paying.call(credits.grant, "other", PRICE, kind="paid", who="user:local")
    cleo = paying.principal("cleo")
    job = paying.submit(**SEGMENT, by=cleo)
    worker = paying.open_worker()
    paying.fail(paying.claim_and_start(worker), "user_input")
    assert paying.call(jobs.quote_retry, job.id, by=paying.operator) is None
    assert paying.call(jobs.quote_retry, job.id, by=cleo).amount == PRICE
    again = paying.retry(job.id, by=paying.operator)
    assert (again.user_id, again.charge_millicredits) == ("cleo", None)
    paying.fail(paying.claim_and_start(worker), "user_input")
    assert _mails(paying) == [("cleo@example.org", "due", "failed")]
    assert paying.retry(again.id, by=cleo).charge_millicredits == PRICE


def test_the_quote_of_a_repeat_is_its_charge(paying, tmp_path):
    job = paying.submit(**SEGMENT)
    paying.cancel(job.id)
    with pytest.raises(IllegalTransition):
        paying.call(jobs.quote_retry, paying.submit(**SEGMENT).id, by=paying.principal("ada"))
    dearer = tmp_path / "dearer.json"
    dearer.write_text(
        '{"version": "dearer", "millicredits_per_gigavoxel": {"infer_neurons": 2000},'
        ' "millicredits_per_annotated_gigavoxel": {}}'
    )
    later = with_credits(paying, 0, price_list=dearer)
    quote = later.call(jobs.quote_retry, job.id, by=paying.principal("ada"))
    assert (quote.amount, quote.has_enough) == (2 * PRICE, True)
    with pytest.raises(NotAllowed):
        later.call(jobs.quote_retry, job.id, by=replace(paying.principal("ada"), scopes=frozenset({"read"})))
    assert later.retry(job.id, quote_id=quote.id).charge_millicredits == 2 * PRICE


def test_a_group_is_quoted_as_one(paying):
    ada = paying.principal("ada")
    group = [NewJob(workflow="segment", params=PARAMS) for _ in range(3)]
    free = NewJob(workflow="find_largest_segment_id", params=PARAMS)
    quote = paying.call(jobs.quote_group, by=ada, jobs=[*group, free])
    assert (quote.amount, quote.available, quote.has_enough) == (3 * PRICE, 10_000, True)
    assert [item is None for item in quote.quotes] == [False, False, False, True]
    six = paying.call(jobs.quote_group, by=ada, jobs=group * 2)
    assert not six.has_enough


def test_a_group_is_paid_whole_or_not_at_all(paying):
    ada = paying.principal("ada")
    group = [NewJob(workflow="segment", params=PARAMS) for _ in range(6)]
    with pytest.raises(NotEnoughCredits):
        paying.call(jobs.submit_group, by=ada, jobs=group)
    assert paying.list_jobs().jobs == ()
    assert available(paying) == (10_000, 0)
    submitted = paying.call(jobs.submit_group, by=ada, jobs=group[:5])
    assert available(paying) == (0, 10_000)
    paying.call(jobs.cancel_group, submitted[0].group, by=ada)
    assert available(paying) == (10_000, 0)


def test_the_price_of_what_another_job_will_make_needs_its_size(paying):
    ada = paying.principal("ada")
    first = paying.submit_convert("cortex")
    params = {"layer": f"job:{first.id}/segmentation", "target": "made"}
    with pytest.raises(InvalidInput, match="is not known before job:"):
        paying.call(jobs.quote, by=ada, workflow="make_segmented", params=params)


@pytest.mark.faults("T14", "100 failing jobs, each failure reported ten times at once, the reaper on")
def test_every_failure_is_refunded_once_however_often_it_is_reported(paying, record_property):
    number = rounds(100, 500)
    rich = with_credits(paying, number * PRICE)
    worker = rich.open_worker()
    claims = []
    for _ in range(number):
        rich.submit(**SEGMENT)
        claims.append(rich.claim_and_start(worker))
    rich.advance(rich.settings.lease_s + 1)
    for start in range(0, number, 2):
        reports = [
            lambda claim=claim: rich.fail(claim, "user_input")
            for claim in claims[start : start + 2]
            for _ in range(10)
        ]
        answers = at_once([*reports, rich.reap])
        assert {answer.state for answer in answers[:-1]} == {"failed"}
    assert available(rich) == (10_000 + number * PRICE, 0)
    assert books_differ(rich) == ()
    refunds = rich.call(jobs.metrics).refunds
    assert refunds == number
    record_property("database", paying.database.engine.dialect.name)
    record_property("jobs", number)
    record_property("refunds", refunds)
    record_property("lost", 0)
    record_property("doubled", 0)


def test_jobs_that_were_charged_for_are_listed_alone(paying):
    paying.submit()
    paid = paying.submit(**SEGMENT).id
    returned = paying.submit(**SEGMENT).id
    paying.cancel(returned)
    assert {job.id for job in paying.list_jobs(is_charged=True).jobs} == {paid, returned}


def test_a_job_is_repeated_once_where_that_is_asked_for(paying):
    job = paying.submit(**SEGMENT)
    paying.cancel(job.id)
    assert paying.call(jobs.quote_retry, job.id, by=paying.principal("ada"), is_first=True).amount == PRICE
    again = paying.retry(job.id, is_first=True)
    for call in (jobs.retry, jobs.quote_retry, jobs.price_retry):
        with pytest.raises(IllegalTransition, match=f"was repeated already, as job {again.id}"):
            paying.call(call, job.id, by=paying.principal("ada"), is_first=True)
    assert paying.retry(job.id).retried_from == job.id, "one by one it may be repeated again"


@pytest.mark.parametrize("state", ["queued", "running", "cancelling", "cancelled", "failed"])
def test_what_cannot_be_cancelled_is_known_before(paying, state):
    job = paying.submit(**SEGMENT)
    if state != "queued":
        claim = paying.claim_and_start(paying.open_worker())
    if state in ("cancelling", "cancelled"):
        paying.cancel(job.id)
    if state == "cancelled":
        paying.finish(claim, outcome="cancelled")
    if state == "failed":
        paying.fail(claim, "user_input")
    assert paying.state(job.id) == state
    ask = lambda name: paying.call(jobs.require_cancellable, job.id, by=paying.principal(name))  # noqa: E731
    if state in ("queued", "running"):
        ask("ada")
    else:
        with pytest.raises(IllegalTransition, match="there is nothing to cancel"):
            ask("ada")
    with pytest.raises(NotFound):
        ask("cleo")
