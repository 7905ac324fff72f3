"""Turns views into HTML: the template environment and the words for numbers."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

import voxelworks
from voxelworks import accounts, sizes
from voxelworks.accounts import Action, oidc
from voxelworks.geometry import Box, Mag, VoxelSize
from voxelworks.protocol.credits import MILLICREDITS
from voxelworks.protocol.messages import JobState
from voxelworks.protocol.models import ModelTask
from voxelworks.protocol.people import LOCAL_USER_ID, Role, Scope
from voxelworks.protocol.places import is_remote
from voxelworks.protocol.views import AttemptOutcome, JobView
from voxelworks.server.charts import charts_of
from voxelworks.server.context import context_of, principal_of
from voxelworks.server.origin import BASE_PATH, is_from_here
from voxelworks.workflows import Workflow

HERE = Path(__file__).parent
STATIC = HERE / "static"
_OWN_ADDRESS = re.compile(
    r'(?<=\s)((?:href|src|action|formaction|hx-get|hx-post|sse-connect|data-icon)=")(?=/)'
)
"""Where an address of this server begins in an attribute. Text cannot look like one: its quotes are escaped."""

STATE_WORDS: dict[JobState, str] = {
    "queued": "Queued", "claimed": "Starting", "running": "Running", "cancelling": "Cancelling",
    "succeeded": "Succeeded", "failed": "Failed", "cancelled": "Cancelled",
}  # fmt: skip
OUTCOME_WORDS: dict[AttemptOutcome, str] = {
    "succeeded": "Succeeded", "failed": "Failed", "cancelled": "Cancelled", "interrupted": "Interrupted",
    "lost": "Worker lost",
}  # fmt: skip
FAILURE_WORDS = {
    "user_input": "Input refused", "resources": "Out of memory, disk or time",
    "infrastructure": "Infrastructure failed",
    "program_error": "Program error", "cancelled": "Cancelled", "timed_out": "Timed out",
}  # fmt: skip


FAILURE_ADVICE: dict[str, str] = {
    "user_input": "The job asks for something that cannot be done. Run it again with other parameters.",
    "resources": "It needed more than its worker could give. Take a smaller box, or ask the operator for more.",
    "infrastructure": "The machines are to blame, not the job. Run it again later.",
    "program_error": "The program met something that it was not made for. The log says where; ask for help with it.",
    "timed_out": "It took longer than it may. Take a smaller box.",
}  # fmt: skip
"""What a failure of each class means, and what to do next."""
ROLE_WORDS: dict[Role, str] = {
    "owner": "Owner", "admin": "Admin", "dataset_manager": "Dataset manager", "member": "Member",
}  # fmt: skip
SCOPE_WORDS: dict[Scope, str] = {
    "read": "look", "submit": "look, and run jobs", "manage": "that, and change datasets and annotations",
    "admin": "everything that you may",
}  # fmt: skip
TASK_WORDS: dict[ModelTask, str] = {
    "affinities": "affinities: which neighbours belong together", "instances": "instances: single objects",
    "semantic": "semantic: what is inside",
}  # fmt: skip
SHARE_LIFETIMES = {1: "1 day", 7: "7 days", 30: "30 days", 90: "90 days", 365: "1 year"}


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Answer with a whole page."""
    who = principal_of(request)
    frame = {
        "path": request.url.path, "who": who, "has_credits": context_of(request).settings.credits_enabled,
        "may": {action.value for action in Action if who is not None and accounts.is_allowed(who, action)},
        "is_bare": who is not None and who.user_id == LOCAL_USER_ID and who.email is None,
    }  # fmt: skip
    return HTMLResponse(render(template, **frame, **values), status_code=status)


def login_page(
    request: Request,
    *,
    heading: str = "Log in",
    message: str = "",
    note: str = "",
    email: str = "",
    target: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """Answer with the page that lets people in, and then leads them to `target`: by default to where they wanted."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    # A POST cannot be repeated after logging in, and an address with a token must not be kept.
    is_kept = request.method == "GET" and "token" not in request.query_params
    context = context_of(request)
    settings = context.settings
    with context.database.read_session() as session:
        has_accounts = accounts.is_set_up(session)
    return page(
        request, "login.html", status=status, heading=heading, message=message, note=note, email=email,
        target=target if target is not None else wanted if is_kept else "/jobs", is_here=is_from_here(request),
        has_accounts=has_accounts,
        oidc_name=settings.oidc_name if oidc.is_configured(settings) else None,
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Fill in a template; `path` names the page for the navigation.

    Templates name pages as routes do, beginning with a slash; browsers may find them below a path of a proxy.
    """
    html = _environment().get_template(template).render(**values)
    base_path = BASE_PATH.get()
    return _OWN_ADDRESS.sub(rf"\g<1>{base_path}", html) if base_path else html


def static_url(name: str) -> str:
    """Give the address of a static file: it changes with the content, so that browsers may keep it for ever."""
    return f"/static/{name}?v={_digest(name)}"


def sentence(message: str) -> str:
    """Write a message as a sentence; one that begins with something typed, such as a place, begins as it is."""
    first = message.split(" ", 1)[0].rstrip(":,;")
    start = message[:1].upper() if first.isalpha() else message[:1]
    return start + message[1:] + ("" if message.endswith((".", "?", "!")) else ".")


def duration(seconds: float | None) -> str:
    """Say a duration with its two largest units, such as ``3 min 20 s``."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole == 0 and seconds > 0:
        return "under 1 s"
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number or first == 3)


def eta(low_s: float, high_s: float) -> str:
    """Say a remaining time as a range, rounded as roughly as it is known."""
    low, high = _round_duration(low_s), _round_duration(high_s)
    return f"about {duration(high)} left" if low == high else f"{_range(low, high)} left"


def bytes_text(count: int | None) -> str:
    """Say a size, such as ``1.5 GiB``, or that it is not known."""
    return "–" if count is None else sizes.size_text(count)


def count_text(count: int, one: str, several: str) -> str:
    """Say how many there are, such as ``1 tree``."""
    return f"{number_text(count)} {one if count == 1 else several}"


def number_text(count: int) -> str:
    """Write a number in groups of three digits."""
    return f"{count:,}".replace(",", "\u202f")


def credits_text(millicredits: int) -> str:
    """Say an amount in credits, without zeros that say nothing: ``1 234.5``."""
    whole, rest = divmod(abs(millicredits), MILLICREDITS)
    # Thin groups of three, and a minus that is as wide as a plus.
    text = f"{whole:,}".replace(",", "\u202f") + (f".{rest:03}".rstrip("0") if rest else "")
    return f"\u2212{text}" if millicredits < 0 else text


def change_text(millicredits: int) -> str:
    """Say a change in credits, with its sign."""
    return f"+{credits_text(millicredits)}" if millicredits > 0 else credits_text(millicredits)


def date_text(at_ms: int) -> str:
    """Say a day; UTC, as the records are."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%-d %b %Y")


def ago(seconds: float) -> str:
    """Say how long ago something was, coarsely."""
    for limit, size, unit in (
        (60, 1, "s"),
        (3600, 60, "min"),
        (86400, 3600, "h"),
        (float("inf"), 86400, "d"),
    ):
        if seconds < limit:
            return "just now" if seconds < 5 else f"{int(seconds // size)} {unit} ago"
    raise AssertionError("every duration is below infinity")


def ago_tag(at_ms: int, now_ms: int) -> Markup:
    """A time that a script keeps up to date; both by the clock of the database, never by the browser's."""
    seconds = (now_ms - at_ms) / 1000
    return Markup('<time datetime="{}" title="{}" data-ago-s="{:.0f}">{}</time>').format(
        iso(at_ms), moment(at_ms), seconds, ago(seconds)
    )


def ticking_tag(seconds: float) -> Markup:
    """A duration that a script lets run on."""
    return Markup('<span data-running-s="{:.1f}">{}</span>').format(seconds, duration(seconds))


def wait_text(job: JobView) -> str | Markup:
    """Say why a job waits; where it waits for a moment, a script counts the seconds down."""
    assert job.wait is not None, "only queued jobs wait"
    if job.wait.code != "backoff":
        return sentence(job.wait.reason)
    seconds = max(0.0, (job.available_ms - job.as_of_ms) / 1000)
    return Markup('The next attempt begins in <span data-left-s="{:.1f}">{}</span>.').format(
        seconds, duration(seconds)
    )


def size_text(box: str) -> str:
    """Say the size of a box in voxels."""
    return " × ".join(str(extent) for extent in Box.parse(box).size)


def physical_text(box: str, voxel_size: str | None) -> str:
    """Say the size of a box in the unit that suits it; empty if the voxel size is not known."""
    if voxel_size is None:
        return ""
    size_nm = [n * nm for n, nm in zip(Box.parse(box).size, VoxelSize.parse(voxel_size).xyz, strict=True)]
    unit, unit_nm = (
        ("mm", 1e6) if max(size_nm) >= 1e6 else ("µm", 1e3) if max(size_nm) >= 1e3 else ("nm", 1.0)
    )
    return " × ".join(f"{value / unit_nm:.3g}" for value in size_nm) + f" {unit}"


def mag_text(mag: str, voxel_size: str) -> str:
    """Say the size of the voxels of a mag."""
    size_nm = VoxelSize.parse(voxel_size).in_mag(Mag.parse(mag)).xyz
    return " × ".join(f"{value:.4g}" for value in size_nm) + " nm"


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment(at_ms: int) -> str:
    """Say a date and time; UTC, as the records are."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(job: JobView) -> float | None:
    """Give how far a job is, in percent with one decimal; None while that is not known."""
    if job.state == "succeeded":
        return 100.0
    if job.progress is None or job.progress.total == 0:
        return None
    return min(100.0, round(100 * job.progress.done / job.progress.total, 1))


def worked_s(job: JobView) -> float | None:
    """Give how long a job has been worked on, waiting between attempts included; None before its start."""
    if job.started_ms is None:
        return None
    return ((job.ended_ms if job.ended_ms is not None else job.as_of_ms) - job.started_ms) / 1000


def layer_name_of(workflow: Workflow) -> str:
    """Name the first layer field of a workflow."""
    return next(field.name for field in workflow.fields if field.kind == "layer")


def _python_text(text: str) -> str:
    return json.dumps(text)


def _range(low: float, high: float) -> str:
    a, b = duration(low), duration(high)
    same_unit = a.split(" ")[1:] == b.split(" ")[1:] and len(a.split(" ")) == 2
    return f"{a.split(' ')[0]}–{b}" if same_unit else f"{a} – {b}"


def _round_duration(seconds: float) -> float:
    for limit, step in ((10, 1), (60, 5), (600, 60), (3600, 300), (86400, 1800)):
        if seconds < limit:
            return max(step, round(seconds / step) * step)
    return round(seconds / 21600) * 21600


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "static_url": static_url, "base_path": BASE_PATH.get, "version": voxelworks.__version__,
        "state_words": STATE_WORDS, "outcome_words": OUTCOME_WORDS, "failure_words": FAILURE_WORDS,
        "failure_advice": FAILURE_ADVICE, "eta": eta, "size_text": size_text, "physical_text": physical_text,
        "layer_name_of": layer_name_of, "role_words": ROLE_WORDS, "scope_words": SCOPE_WORDS,
        "share_lifetimes": SHARE_LIFETIMES, "is_remote": is_remote, "mag_text": mag_text,
        "task_words": TASK_WORDS,
    }  # fmt: skip
    environment.filters |= {
        "duration": duration, "bytes": bytes_text, "ago": ago_tag, "ticking": ticking_tag,
        "moment": moment, "date": date_text, "credits": credits_text, "change": change_text, "count_of": count_text,
        "number": number_text,
        "iso": iso, "sentence": sentence, "wait_text": wait_text, "percent": percent, "worked_s": worked_s,
        "python": _python_text, "charts": charts_of,
    }  # fmt: skip
    return environment
