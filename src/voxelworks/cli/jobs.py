"""`voxelworks jobs ...`: submit and follow the jobs of a server."""

from __future__ import annotations

import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from voxelworks.cli import _show
from voxelworks.cli._lists import json_option
from voxelworks.cli._server import connect, server_options
from voxelworks.cli._workflow_options import WorkflowGroup, require_all
from voxelworks.cli.params import find as find_params
from voxelworks.client import Client, is_settled
from voxelworks.errors import FailureClass, InvalidInput, StorageFailed
from voxelworks.protocol.credits import QuoteView, in_credits
from voxelworks.protocol.messages import PRIORITY_MAX, JobState, Json
from voxelworks.protocol.views import AttemptView, BulkAnswer, EventView, JobDetail, JobView, RefusedJob
from voxelworks.sizes import size_text
from voxelworks.workflows import Workflow, get_workflow

FOLLOW_EVERY_S = 1.0
wait_option = click.option(
    "--wait", is_flag=True, help="Wait until the job has ended; exit status 1 if it did not succeed."
)


yes_option = click.option("--yes", is_flag=True, help="Agree to the price without being asked.")
order_options = (
    click.option(
        "--params", "saved", metavar="NAME",
        help="Parameters kept with `voxelworks params save`, for what no option says.",
    ),
    click.option("--after", multiple=True, metavar="JOB", help="Start when this job has succeeded; may be repeated."),
    click.option("--group", metavar="NAME", help="Group under which jobs are shown and cancelled together."),
    click.option(
        "--priority", type=click.IntRange(-PRIORITY_MAX, PRIORITY_MAX), default=0,
        help="Each step counts like an hour of waiting; above 0 for admins only.",
    ),
)  # fmt: skip


@click.group()
def jobs() -> None:
    """Submit and follow the jobs of a server."""


@jobs.command("list")
@server_options
@click.option(
    "--state", "states", multiple=True, type=click.Choice(get_args(JobState)), help="Only jobs in this state."
)
@click.option("--workflow", help="Only jobs of this workflow.")
@click.option("--owner", help="Only jobs of this user, by id or mail address; for admins.")
@click.option("--dataset", help="Only jobs that read, change or make this dataset.")
@click.option("--group", help="Only jobs of this group.")
@click.option(
    "--failure", type=click.Choice(get_args(FailureClass)), help="Only jobs that failed for this reason."
)
@click.option(
    "--since", metavar="DATE", help="Only jobs that were submitted on this day or later: 2026-01-31."
)
@click.option("--until", metavar="DATE", help="Only jobs that were submitted on this day or before.")
@click.option("--charged", is_flag=True, help="Only jobs that cost something.")
@click.option(
    "--text", help="Only jobs in which these words are found: in parameters, failures, owners, ids."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="At most so many, newest first.",
)
@json_option
def list_jobs(
    server: str | None,
    token: str | None,
    home: Path | None,
    states: tuple[str, ...],
    limit: int,
    as_json: bool,
    since: str | None,
    until: str | None,
    **filters: Any,
) -> None:
    """List jobs, newest first."""
    begin = None if since is None else _day(since)
    end = None if until is None else _day(until, days_later=1)
    with connect(server=server, token=token, home=home) as client:
        page = client.list_jobs(states=states, since=begin, until=end, limit=limit, **filters)
    if as_json:
        click.echo(_show.as_json([job.model_dump(mode="json") for job in page.jobs]))
        return
    console = _show.output()
    if not page.jobs:
        is_filtered = any((states, since, until, *filters.values()))
        console.print(
            "No job is like that." if is_filtered else "No jobs. Submit one with `voxelworks jobs submit`."
        )
        return
    console.print(_jobs_table(page.jobs))
    if page.next_after is not None:
        console.print(f"{sum(page.counts.values())} in all; show more with --limit", style="dim")


@jobs.command()
@click.argument("job_id", metavar="JOB")
@server_options
@json_option
def show(job_id: str, server: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """Show a job: its parameters, attempts and history."""
    with connect(server=server, token=token, home=home) as client:
        detail = client.show(job_id)
    if as_json:
        click.echo(_show.as_json(detail.model_dump(mode="json")))
    else:
        _print_detail(detail, _show.output())


@jobs.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@server_options
@wait_option
def cancel(
    job_ids: tuple[str, ...], server: str | None, token: str | None, home: Path | None, wait: bool
) -> int:
    """Cancel jobs. Cancelling one twice changes nothing."""
    with connect(server=server, token=token, home=home) as client:
        answer = (
            BulkAnswer(jobs=(client.cancel(job_ids[0]),), refused=())
            if len(job_ids) == 1
            else client.cancel_several(job_ids)
        )
        for job in answer.jobs:
            ended = _follow(client, job) if wait else job
            _show.output().print(f"job {ended.id} is {ended.state}")
    return _print_refused(answer.refused)


@jobs.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@server_options
@yes_option
@wait_option
def retry(
    job_ids: tuple[str, ...],
    server: str | None,
    token: str | None,
    home: Path | None,
    yes: bool,
    wait: bool,
) -> int:
    """Submit failed or cancelled jobs anew.

    They have the same parameters, and the present price. Of several jobs those are left out that were repeated already.
    """
    with connect(server=server, token=token, home=home) as client:
        if len(job_ids) == 1:
            quote = client.quote_retry(job_ids[0])
            job = client.retry(job_ids[0], quote_id=_agreed(quote, is_agreed=yes))
            return announce(client, job, wait=wait, as_json=False)
        quoted = client.quote_retries(job_ids)
        if quoted.amount:
            _agree(quoted.amount, quoted.available or 0, f"the {len(quoted.quotes)} jobs cost", is_agreed=yes)
        refused = quoted.refused
        status = 0
        if quoted.quotes:
            answer = client.retry_several(list(quoted.quotes), quotes=quoted.quotes)
            refused += answer.refused
            status = max((announce(client, job, wait=wait, as_json=False) for job in answer.jobs), default=0)
    return max(status, _print_refused(refused))


@jobs.command()
@click.argument("job_id", metavar="JOB")
@server_options
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; the last one by default.")
@click.option(
    "-n", "--lines", "line_count", type=click.IntRange(1, 5000), help="Only so many lines at its end."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
def logs(
    job_id: str,
    server: str | None,
    token: str | None,
    home: Path | None,
    attempt: int | None,
    line_count: int | None,
    follow: bool,
) -> None:
    """Print the log of a job."""
    with connect(server=server, token=token, home=home) as client:
        offset = 0 if line_count is None else _print_end_of_log(client, job_id, attempt, line_count)
        while True:
            # Asked first: what the job printed before it ended is in the log then.
            has_ended = is_settled(client.show(job_id).job) if follow else True
            offset = _print_log(client, job_id, attempt, offset)
            if has_ended:
                return
            time.sleep(FOLLOW_EVERY_S)


def _submit(workflow: Workflow, raw: Json, options: dict[str, Any]) -> int:
    if options["saved"] is None:
        require_all(workflow, raw)
    with connect(server=options["server"], token=options["token"], home=options["home"]) as client:
        if options["saved"] is not None:
            raw = _over(find_params(client, options["saved"], workflow.name).params, raw)
            require_all(workflow, raw)
        quote = None if workflow.cost.is_free else client.quote(workflow.name, raw)
        job = client.submit(
            workflow.name, raw, after=options["after"], group=options["group"], priority=options["priority"],
            quote_id=_agreed(quote, is_agreed=options["yes"]),
        )  # fmt: skip
        return announce(client, job, wait=options["wait"], as_json=options["as_json"])


def _over(saved: Any, given: Any) -> Any:
    """Lay what was given over what was saved."""
    if isinstance(saved, dict) and isinstance(given, dict):
        return saved | {key: _over(saved.get(key), value) for key, value in given.items()}
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        return [_over(*pair) for pair in zip(saved, given, strict=True)]
    return given


def _agreed(quote: QuoteView | None, *, is_agreed: bool) -> str | None:
    """Show what a job costs and ask whether it shall; give the id of the quote."""
    if quote is None:
        return None
    if quote.has_enough:  # otherwise the server says what is missing
        _agree(quote.amount, quote.available, "the job costs", is_agreed=is_agreed)
    return quote.id


def _agree(amount: int, available: int, what: str, *, is_agreed: bool) -> None:
    price = f"{what} {in_credits(amount)} credits"
    _show.messages().print(f"{price}; {in_credits(available)} are available")
    _show.confirm("Submit it?", is_agreed=is_agreed, about=price)


submit = WorkflowGroup(
    "submit",
    handler=_submit,
    needs_all=False,
    extra_options=(server_options, *order_options, yes_option, wait_option, json_option),
    help="Submit a job. Datasets are named as on the server; images as root:NAME/... below one of its import roots.",
    short_help="Submit a job.",
    no_args_is_help=True,
)
jobs.add_command(submit)


def announce(client: Client, job: JobView, *, wait: bool, as_json: bool) -> int:
    """Tell of a new job, and with `wait` of its end; give the exit status."""
    if not wait and not as_json:
        _show.output().print(f"job {job.id} is {job.state}: {client.url}/jobs/{job.id}")
    if wait:
        job = _follow(client, job)
        if not as_json:
            _print_end(job)
    if as_json:
        click.echo(_show.as_json(job.model_dump(mode="json")))
    return 0 if not job.is_ended or (job.state == "succeeded" and job.publication != "failed") else 1


def _print_refused(refused: tuple[RefusedJob, ...]) -> int:
    """Say with which jobs nothing was done, and why; give the exit status."""
    for one in refused:
        _show.messages().print(one.reason, markup=False, style="red")
    return 1 if refused else 0


def _follow(client: Client, job: JobView) -> JobView:
    """Show a job's progress until nothing more will happen to it."""
    line, last = _show.Line(job.workflow), job
    with _show.LiveLines(_show.messages(), [line], is_transient=True):
        for view in client.watch(job.id):
            line.follow(view)
            last = view
    return last


def _print_end(job: JobView) -> None:
    console = _show.output()
    console.print(_show.state_text(job.state), Text(job.workflow, "bold"), Text(f"job {job.id}", "dim"))
    if problem := job.publish_error or job.message:
        console.print(problem, markup=False, style="red" if job.state == "failed" else "")
    if job.result is not None:
        console.print(_show.facts(job.result.value))


def _print_log(client: Client, job_id: str, attempt: int | None, offset: int) -> int:
    """Print what there is from `offset` on; give where to go on."""
    if attempt is None and client.show(job_id).job.attempt == 0:
        return offset
    while True:
        chunk = client.read_log(job_id, attempt, offset=offset)
        if chunk.offset < offset:
            raise StorageFailed(
                f"the log of job {job_id} is shorter than it was; print it again from its start"
            )
        click.echo(chunk.text, nl=False)
        offset = chunk.next_offset
        if not chunk.text:
            return offset


def _print_end_of_log(client: Client, job_id: str, attempt: int | None, line_count: int) -> int:
    """Print the last lines; give where to go on."""
    if attempt is None and client.show(job_id).job.attempt == 0:
        return 0
    found = client.read_lines(job_id, attempt, first=None, limit=line_count)
    click.echo("\n".join(found.lines), nl=bool(found.lines) and not found.is_open)
    return found.size


def _day(text: str, *, days_later: int = 0) -> datetime:
    """Read a day, as it begins in the time zone of this machine."""
    try:
        day = date.fromisoformat(text) + timedelta(days=days_later)
        return datetime.combine(day, datetime.min.time()).astimezone()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{text!r} is not a date; write it as 2026-01-31") from error


def _jobs_table(found: tuple[JobView, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("job", no_wrap=True)
    for name in ("workflow", "state", "progress", "age", "took"):
        table.add_column(name, no_wrap=True)
    table.add_column("about", overflow="ellipsis", no_wrap=True)
    for job in found:
        table.add_row(
            job.id, job.workflow, _show.state_text(job.state), _share(job),
            _show.duration((job.as_of_ms - job.created_ms) / 1000), _took(job), _about(job),
        )  # fmt: skip
    return table


def _share(job: JobView) -> str:
    if job.wait is not None and job.wait.place is not None:
        return f"place {job.wait.place}"
    if job.state == "running" and job.progress is not None and job.progress.total:
        return f"{100 * job.progress.done // job.progress.total} %"
    return ""


def _took(job: JobView) -> str:
    if job.started_ms is None:
        return ""
    return _show.duration(((job.ended_ms or job.as_of_ms) - job.started_ms) / 1000)


def _about(job: JobView) -> str:
    if job.publish_error or job.message:
        return (job.publish_error or job.message or "").splitlines()[0]
    if job.wait is not None:
        return job.wait.reason
    if job.state == "running" and job.progress is not None:
        return _show.progress_note(job.progress)
    workflow = get_workflow(job.workflow)
    values = workflow.flatten(workflow.parse(job.params))
    data = [
        field.name for field in workflow.fields if field.kind in ("dataset", "layer", "source", "new_dataset")
    ]
    return ", ".join(_show.plain(values[name]) for name in data if name in values)


def _print_detail(detail: JobDetail, console: Console) -> None:
    job = detail.job
    console.print(Text(job.workflow, "bold"), Text(f"job {job.id}", "dim"))
    facts: dict[str, object] = {"state": _show.state_text(job.state)}
    if job.wait is not None:
        facts["waits"] = job.wait.reason
        if job.wait.place is not None:
            facts["place in the queue"] = job.wait.place
    if job.progress is not None and not job.is_ended:
        facts["progress"] = f"{_share(job)} {_show.progress_note(job.progress)}".strip()
    if job.eta is not None:
        facts["remaining"] = f"{_show.duration(job.eta.low_s)} to {_show.duration(job.eta.high_s)}"
    if job.started_ms is not None:
        facts["took"] = _took(job)
    if problem := job.publish_error or job.message:
        facts["message"] = problem
    if job.retried_from is not None:
        facts["repeats"] = f"job {job.retried_from}"
    if detail.retries:
        facts["repeated_by"] = ", ".join(detail.retries)
    console.print(_show.facts(facts))
    _print_section(console, "Parameters", _show.facts(job.params))
    if job.result is not None:
        _print_section(console, "Result", _show.facts(job.result.value))
    if detail.attempts:
        _print_section(console, "Attempts", _attempts_table(detail.attempts))
    _print_section(console, "History", _events_table(detail.events, job.created_ms))


def _print_section(console: Console, title: str, content: Table) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(content)


def _attempts_table(attempts: tuple[AttemptView, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("#", "worker", "outcome", "took", "memory", "log"):
        table.add_column(name, no_wrap=True)
    table.add_column("message", overflow="fold")
    for attempt in attempts:
        took = (
            "" if attempt.ended_ms is None else _show.duration((attempt.ended_ms - attempt.claimed_ms) / 1000)
        )
        memory = "" if attempt.peak_memory_bytes is None else size_text(attempt.peak_memory_bytes)
        table.add_row(
            str(attempt.number), attempt.worker, attempt.outcome or "runs", took, memory, size_text(attempt.log_bytes),
            Text(attempt.message or ""),
        )  # fmt: skip
    return table


def _events_table(events: tuple[EventView, ...], began_ms: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for event in events:
        change = event.to_state if event.from_state != event.to_state else ""
        after = f"+{_show.duration((event.at_ms - began_ms) / 1000)}"
        table.add_row(Text(after, "dim"), change, Text(event.who, "dim"), Text(event.why))
    return table
