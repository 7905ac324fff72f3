"""Words for numbers, and texts that cannot do harm in headers."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

from voxelworks.errors import FailureClass, InvalidInput

SUBJECT_LENGTH = 160
TEXT_LENGTH = 20_000
_ADDRESS = re.compile(r"[^\s@<>()\[\]{}|\\,;:\"]{1,64}@[^\s@<>()\[\]{}|\\,;:\"/?#%]{1,253}")
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the direction of what follows: a name could pretend to be another."""

FAILURE_WORDS: dict[FailureClass, str] = {
    "user_input": "Input refused", "resources": "Out of memory, disk or time",
    "infrastructure": "Infrastructure failed", "program_error": "Program error", "cancelled": "Cancelled",
    "timed_out": "Timed out",
}  # fmt: skip


def one_line(text: str, length: int = SUBJECT_LENGTH) -> str:
    """Make one line of any text: without line breaks, control characters and half characters, and not too long."""
    plain = "".join(" " if _is_unprintable(character) else character for character in text)
    line = " ".join(plain.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def many_lines(text: str, length: int = TEXT_LENGTH) -> str:
    """Keep line breaks, and take away what else does not print; of a very long text give the end, as of a log."""
    if len(text) > length:
        text = f"[…]\n{text[-length:]}"
    lines = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4).split("\n")
    return "\n".join("".join("�" if _is_unprintable(char) else char for char in line) for line in lines)


def check_mail_address(text: str) -> str:
    """Check that a text is one mail address, and nothing else.

    Raises
    ------
    InvalidInput
    """
    is_printable = not any(_is_unprintable(character) for character in text)
    if not (is_printable and len(text) <= 254 and _ADDRESS.fullmatch(text)):
        raise InvalidInput(f"{text!r} is not a mail address; write it as name@example.org")
    return text


def credits_text(millicredits: int) -> str:
    """Say an amount: `1 credit`, `12.5 credits`, `0.001 credits`."""
    whole, rest = divmod(abs(millicredits), 1000)
    number = f"{whole:,}" + (f".{rest:03d}".rstrip("0") if rest else "")
    sign = "-" if millicredits < 0 else ""
    return f"{sign}{number} {'credit' if abs(millicredits) == 1000 else 'credits'}"


def duration_text(seconds: float) -> str:
    """Say a duration with its two largest units, such as `3 min 20 s`."""
    if 0 < seconds < 1:
        return "under 1 s"
    whole = max(0, round(seconds))
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number or first == 3)


def moment_text(at_ms: int) -> str:
    """Say a moment: `2026-11-23 09:12 UTC`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNING
