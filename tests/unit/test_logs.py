"""The log of our programs: one line each, readable by people or machines."""

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelworks import logs
from voxelworks.settings import Settings


@pytest.fixture
def root_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logs.NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "voxelworks.test", "levelname": "WARNING", "msg": "%s", "args": (message,)}
    )
    vars(made).update(extra)
    return made


@given(st.text())
def test_a_message_is_one_line_whatever_it_quotes(text: str) -> None:
    assert len(logs.TextLines("server").format(record(text)).splitlines()) == 1
    line = logs.JsonLines("server").format(record(text))
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_json_lines_carry_what_was_added_and_the_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        made = record("failed", job_id="7", exc_info=(type(error), error, error.__traceback__), created=0.0)
    entry = json.loads(logs.JsonLines("worker").format(made))
    assert entry.pop("exception").endswith("ValueError: broken")
    assert entry.pop("pid") > 0
    assert entry == {
        "time": "1970-01-01T00:00:00.000+00:00", "level": "warning", "program": "worker", "logger": "voxelworks.test",
        "message": "failed", "job_id": "7",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "json"])
def test_the_setting_chooses(kind: str, root_restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Settings(log_format=kind), program="server")  # type: ignore[arg-type]
    logging.getLogger("voxelworks").info("job %s ends", "7")
    logging.getLogger("httpx").info("a request")
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["message"] if kind == "json" else line.partition(" ")[2]) in (
        "job 7 ends", "server: job 7 ends",
    )  # fmt: skip
