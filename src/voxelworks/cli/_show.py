"""How progress, states, times and answers look in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from voxelworks.errors import InvalidInput
from voxelworks.protocol.messages import JobState, Progress
from voxelworks.sizes import size_text

if TYPE_CHECKING:
    from voxelworks.protocol.views import JobView

PIPE_WIDTH = 200
"""Columns where the output goes to a program or a file: wide enough to cut nothing."""

BAR_WIDTH = 24

STATE_LOOKS: dict[JobState, tuple[str, str]] = {
    "queued": ("·", "dim"), "claimed": ("●", "cyan"), "running": ("●", "cyan"), "cancelling": ("●", "yellow"),
    "succeeded": ("✓", "green"), "failed": ("✗", "red"), "cancelled": ("■", "yellow"),
}  # fmt: skip
_LINE_LOOKS = {"waiting": ("·", "dim"), "done": ("✓", "green"), "failed": ("✗", "red")}


def output() -> Console:
    """Give the console for what was asked for."""
    return Console(
        highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH, soft_wrap=not sys.stdout.isatty()
    )


def messages() -> Console:
    """Give the console for everything beside it."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPE_WIDTH)


def state_text(state: JobState) -> Text:
    symbol, style = STATE_LOOKS[state]
    return Text(f"{symbol} {state}", style)


def duration(seconds: float) -> str:
    """Write a duration as people say it: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 10 and not isinstance(seconds, int):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, smaller_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def facts(values: Mapping[str, object]) -> Table:
    """Lay out names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), value if isinstance(value, Text) else Text(plain(value)))
    return table


def plain(value: object) -> str:
    """Write a value of an answer or of params without the marks of JSON where it needs none."""
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')} {plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def progress_note(progress: Progress) -> str:
    return f"{progress.phase}, {progress.text}" if progress.text else progress.phase


@dataclass
class Line:
    """What is shown of one job."""

    name: str
    about: str = ""
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    share: float = 0.0
    """How much of it is done, 0 to 1."""
    note: str = ""
    began_at: float | None = None
    """By the monotonic clock."""

    def begin(self) -> None:
        self.state = "running"
        self.began_at = self.began_at or time.monotonic()

    def end(self, *, is_success: bool, note: str = "") -> None:
        self.state = "done" if is_success else "failed"
        self.note = note

    def follower(self) -> Callable[[int, int], None]:
        """Give what takes the bytes moved so far and those of all, and shows the share, the pace and the time left."""
        began_at, began_bytes = time.monotonic(), -1

        def follow(done: int, total: int) -> None:
            nonlocal began_bytes, began_at
            if began_bytes < 0:  # what an earlier try has moved says nothing of the pace
                began_bytes, began_at = done, time.monotonic()
            self.share = done / total if total else 1.0
            self.note = _pace(done - began_bytes, total - done, time.monotonic() - began_at)

        return follow

    def follow(self, job: JobView) -> None:
        """Take over how far a job of a server is; its end is said with `end`."""
        self.begin()
        if job.progress is not None and job.progress.total:
            self.share = job.progress.done / job.progress.total
            self.note = progress_note(job.progress)
        else:
            self.note = job.wait.reason if job.wait is not None else job.state


class LiveLines:
    """Shows jobs in a terminal while they run, one line each. Elsewhere it shows nothing.

    Parameters
    ----------
    console
    lines
        Changed by whoever follows the jobs; drawn several times a second.
    is_transient
        Whether the lines go away at the end.
    """

    def __init__(self, console: Console, lines: Sequence[Line], *, is_transient: bool = False) -> None:
        self._console = console
        self._lines = lines
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=8, transient=is_transient
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _draw(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True)
        # The one column that gives way in a narrow terminal.
        table.add_column()
        for line in self._lines:
            symbol = self._spinner if line.state == "running" else Text(*_LINE_LOOKS[line.state])
            note = Text(line.note, "dim", no_wrap=True, overflow="ellipsis")
            table.add_row(symbol, _line_name(line), _line_progress(line), note)
        return table


def _pace(moved: int, left: int, took_s: float) -> str:
    """Say how fast bytes go and how long it will take, when that can be told."""
    if not moved or took_s < 1:
        return ""
    rate = moved / took_s
    return f"{size_text(round(rate))}/s, {duration(round(left / rate))} left"


def _line_name(line: Line) -> Text:
    name = Text(line.name, "dim" if line.state == "waiting" else "")
    return name.append(f"  {line.about}", "dim") if line.about else name


def _line_progress(line: Line) -> RenderableType:
    if line.state != "running" or line.began_at is None:
        return Text()
    row = Table.grid(padding=(0, 1, 0, 0))
    bar = ProgressBar(
        total=1.0, completed=line.share, width=BAR_WIDTH, complete_style="cyan", finished_style="cyan"
    )
    passed = duration(time.monotonic() - line.began_at)
    row.add_row(bar, f"{100 * line.share:3.0f} %", Text(passed, "dim"))
    return row


class RunDisplay:
    """Shows a workflow that runs in this process: live in a terminal, a line for each phase elsewhere.

    It is the `Reporter` of the run.
    """

    def __init__(self, name: str, console: Console) -> None:
        self._console = console
        self._line = Line(name, note="starting")
        self._lines = LiveLines(console, [self._line], is_transient=True)
        self._phase = ""

    def __enter__(self) -> Self:
        self._line.begin()
        self._lines.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, traceback)

    def progress(self, progress: Progress) -> None:
        self._line.share = progress.done / progress.total if progress.total else 0.0
        self._line.note = progress_note(progress)
        if progress.phase != self._phase and not self._console.is_terminal:
            self._console.print(progress.phase, markup=False)
        self._phase = progress.phase

    def log(self, text: str) -> None:
        self._console.print(text, markup=False, style="dim")


def confirm(question: str, *, is_agreed: bool, about: str) -> None:
    """Ask before something that cannot be undone, unless it was agreed to.

    Parameters
    ----------
    question
    is_agreed
    about
        What it is about, for the error.

    Raises
    ------
    InvalidInput
        If nobody is there to be asked.
    """
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(f"{about}; add --yes to agree to that")
    click.confirm(question, abort=True, err=True)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
