"""Tokens: made here, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum


class Prefix(StrEnum):
    """How tokens begin, so that people and scanners know what they found."""

    API = "vxt_"
    JOB = "vxj_"
    WORKER = "vxw_"
    INVITATION = "vxi_"
    RESET = "vxr_"
    SESSION = "vxs_"
    SHARE = "vxd_"


def make_token(prefix: Prefix) -> str:
    """Make a token with 256 random bits."""
    return f"{prefix}{secrets.token_urlsafe(32)}"


def digest(token: str) -> str:
    """Give what is stored of a token. It needs no salt and no slow hash: nobody guesses 256 bits."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def hint(token: str) -> str:
    """Give the beginning of a token, by which its user knows which one it is."""
    return token[:8]


def make_id() -> str:
    return secrets.token_hex(8)
