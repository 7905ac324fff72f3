"""Passwords: which are taken, and how they are stored and compared (Argon2id)."""

from __future__ import annotations

import os
import threading
import unicodedata
from functools import cache
from importlib import resources

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from voxelworks.errors import InvalidInput

CHARACTERS_MIN = 8
CHARACTERS_MAX = 128
_LOOKED_AT_MAX = 1024

# Parameters that OWASP recommends for servers: 19 MiB, two passes, one lane. A hash carries its own, so that they can
# be raised: an older hash is renewed when its user logs in.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Many log-ins at once shall neither take all cores nor all memory.
_TURNS = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))


def check_password(password: str, *, email: str | None, name: str) -> None:
    """Refuse a password that others would guess first. No rule asks for digits or signs.

    Raises
    ------
    InvalidInput
    """
    known = _normalized(password)
    if len(known) < CHARACTERS_MIN:
        raise InvalidInput(
            f"the password has {len(known)} characters; take at least {CHARACTERS_MIN}, such as three or four words"
        )
    if len(known) > CHARACTERS_MAX:
        raise InvalidInput(f"the password has {len(known)} characters; take at most {CHARACTERS_MAX}")
    if not known.isprintable():
        raise InvalidInput("the password has characters that cannot be typed; leave them out")
    plain = known.casefold()
    if plain in _common() or len(set(plain)) < 3:
        raise InvalidInput("this password is among those that everybody tries first; take another one")
    if plain in _personal(email, name):
        raise InvalidInput(
            "the password is your name, your address or that of this program; take another one"
        )


def hash_password(password: str) -> str:
    with _TURNS:
        return _HASHER.hash(_stored_form(password))


def is_password(password: str, password_hash: str | None) -> bool:
    """Compare. Without a hash it takes as long and says no: nobody learns from the time who has an account."""
    with _TURNS:
        try:
            _HASHER.verify(password_hash or _nobodys_hash(), _stored_form(password))
        except (VerificationError, InvalidHashError):
            return False
    return password_hash is not None


def is_outdated(password_hash: str) -> bool:
    """Tell whether a hash was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(password_hash)


def _normalized(password: str) -> str:
    # The same letters may be typed as different code points on another keyboard. What is longer than any password shall
    # cost no more than one.
    return unicodedata.normalize("NFKC", password[:_LOOKED_AT_MAX])


def _stored_form(password: str) -> bytes:
    return _normalized(password).encode(errors="replace")


def _personal(email: str | None, name: str) -> frozenset[str]:
    plain = name.casefold()
    words = {"voxelworks", "webknossos", plain, plain.replace(" ", ""), ".".join(plain.split())}
    if email:
        words |= {email, email.rpartition("@")[0]}
    return frozenset(words)


@cache
def _common() -> frozenset[str]:
    text = resources.files("voxelworks.accounts").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash("nobody has this password")
