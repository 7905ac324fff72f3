"""Secrets in logs are overwritten before they are stored (R22)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        rb"(?i)\bauthorization\s*[:=]\s*(?:(?:bearer|basic|token)\s+)?([^\s\"',;]+)",
        rb"(?i)\bbearer\s+([A-Za-z0-9._~+/=*-]{8,})",
        rb"(?i)(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)[\"']?\s*[=:]\s*[\"']?([^\s\"'&,;]{6,})",
        rb"://[^/\s:@]{0,200}:([^@\s/]+)@",
        rb"\b(AKIA[0-9A-Z]{16})\b",
        rb"\b(gh[pousr]_[A-Za-z0-9]{36,})",
        rb"(?<![A-Za-z0-9])(vx[a-z]_[A-Za-z0-9_-]{20,})",  # our own, of every kind
    )
)
CONTEXT_BYTES = 4096
"""How far before new bytes a secret may begin that ends in them."""


def mask(text: bytes, secrets: Iterable[str] = ()) -> bytes:
    """Overwrite secrets with asterisks: known ones, and what looks like one. The length stays the same."""
    for secret in secrets:
        if secret:
            text = text.replace(secret.encode(), b"*" * len(secret.encode()))
    for pattern in _SECRETS:
        text = pattern.sub(_overwrite, text)
    return text


def _overwrite(found: re.Match[bytes]) -> bytes:
    start, stop = found.span(1)
    whole_start = found.start()
    whole = found.group()
    return whole[: start - whole_start] + b"*" * (stop - start) + whole[stop - whole_start :]
