"""How our programs write their own log: lines for people, or one JSON object per line for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from voxelworks.settings import Settings

NOISY = ("httpx", "alembic", "uvicorn")
"""They tell of every request and every step."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(settings: Settings, *, program: str) -> None:
    """Write the log to standard error as the settings say.

    Parameters
    ----------
    settings
    program
        Who writes, such as `server` or `worker`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(program) if settings.log_format == "json" else TextLines(program))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


class TextLines(logging.Formatter):
    """One line for each message, whatever names it quotes; only a traceback has more."""

    def __init__(self, program: str) -> None:
        super().__init__(f"%(asctime)s {program}: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides
        return one_line(super().formatMessage(record))


class JsonLines(logging.Formatter):
    """One JSON object for each message: `time` (UTC), `level`, `program`, `logger`, `message`, and what was added."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "program": self._program,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def one_line(text: str) -> str:
    r"""Show control characters as `\x0a` and the like: a name in a message cannot begin a line of its own."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
