"""One file from another machine, such as the zip of a model, at an address that a user gave."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from voxelworks.addresses import AddressRules, Arriving, opened
from voxelworks.errors import InvalidInput, ServerUnreachable, StorageFailed
from voxelworks.settings import Settings
from voxelworks.sizes import size_text

SILENCE_S = 60.0
WHOLE_S = 6 * 3600.0
"""How long all of it may take."""
PIECE_BYTES = 2**20
_ANYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
_PASSING = (408, 425, 429, 500, 502, 503, 504)


def fetch(
    address: str,
    folder: Path,
    *,
    bytes_max: int,
    settings: Settings,
    is_trusting: bool,
    check: Callable[[], None],
    report: Callable[[int, int], None],
) -> Path:
    """Bring a file, or give the one that an earlier call has brought whole.

    Parameters
    ----------
    address
        On a server one on its list of remote hosts; that was looked at before.
    folder
        Where it goes.
    bytes_max
        Largest file that is taken.
    settings
        Say which private networks may be reached.
    is_trusting
        Whether a user asks on their own machine, who may reach what they like.
    check
        Called between pieces; may raise to stop.
    report
        Called between pieces with the bytes that are here and all.

    Raises
    ------
    InvalidInput
        If the address is none of a file, or the file is too large.
    ForbiddenAddress
    StorageFailed
        If the other machine does not answer now.
    OSError
    """
    scheme = urlsplit(address).scheme
    if scheme not in ("http", "https"):
        raise InvalidInput(
            f"{address} is fetched from no {scheme} store; give an address that begins with https://"
        )
    name = unquote(PurePosixPath(urlsplit(address).path).name) or "file"
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)[-100:].lstrip(
        "."
    )
    target = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{safe or 'file'}"
    if target.exists():
        return target
    rules = replace(AddressRules.of(settings).for_listed(address), timeout_s=SILENCE_S)
    if is_trusting:
        rules = replace(rules, networks=_ANYWHERE)
    part = target.with_name(f".{target.name}.part")
    try:
        with opened(address, rules, whole_s=WHOLE_S) as answer, part.open("wb") as out:
            _require_file(answer, address, bytes_max)
            done = 0
            while piece := answer.read(PIECE_BYTES):
                done += len(piece)
                if done > bytes_max:
                    raise _too_large(address, bytes_max)
                out.write(piece)
                check()
                report(done, answer.size_bytes or done)
            if not answer.is_whole:
                raise ServerUnreachable(f"{urlsplit(address).hostname} broke off")
    except ServerUnreachable as error:
        raise StorageFailed(f"cannot fetch {address}: {error.message}") from error
    part.rename(target)
    return target


def _require_file(answer: Arriving, address: str, bytes_max: int) -> None:
    if answer.status in (301, 302, 303, 307, 308):
        raise InvalidInput(f"{address} only leads to {answer.header('Location')!r}; give that address")
    if answer.status in _PASSING:
        raise ServerUnreachable(f"{urlsplit(address).hostname} answers {answer.status}")
    if answer.status != 200:
        raise InvalidInput(
            f"there is no file at {address} that may be had (answer {answer.status}); check it"
        )
    if answer.size_bytes is not None and answer.size_bytes > bytes_max:
        raise _too_large(address, bytes_max)


def _too_large(address: str, bytes_max: int) -> InvalidInput:
    return InvalidInput(f"{address} is larger than {size_text(bytes_max)}, the most that is fetched")
