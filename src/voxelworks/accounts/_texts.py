"""Names, addresses and other texts that people give: checked and brought into one form."""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from functools import cache

from voxelworks.errors import InvalidInput

NAME_CHARACTERS_MAX = 100
_ADDRESS_CHARACTERS_MAX = 254
_LOCAL_PART = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_DOMAIN = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_ORGANIZATION_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_email(text: str) -> str:
    """Bring an e-mail address into the form in which it is stored and compared.

    Only ASCII is taken: letters that look alike, or become alike in lower case, would let one person be taken for
    another.

    Raises
    ------
    InvalidInput
    """
    email = text.strip().casefold()
    local, _, domain = email.rpartition("@")
    is_plain = text.isascii() and len(email) <= _ADDRESS_CHARACTERS_MAX
    if not (is_plain and _LOCAL_PART.fullmatch(local) and _DOMAIN.fullmatch(domain)):
        raise InvalidInput(f"{text[:100]!r} is not an e-mail address; write it like ada@example.org")
    return email


def same_email(text: str) -> str:
    """Bring a text that may be no address at all into the form that is looked up and counted."""
    return shortened(text, _ADDRESS_CHARACTERS_MAX).casefold()


def check_name(what: str, text: str) -> str:
    """Check the name of a person, organization, token or key: one line, at most 100 characters.

    Raises
    ------
    InvalidInput
    """
    name = " ".join(text.split())
    if not name:
        raise InvalidInput(f"the {what} is empty; give one")
    if len(name) > NAME_CHARACTERS_MAX:
        raise InvalidInput(f"the {what} has {len(name)} characters; at most {NAME_CHARACTERS_MAX} are taken")
    if not name.isprintable():
        raise InvalidInput(f"the {what} {name!r} has characters that cannot be shown; leave them out")
    return name


def check_organization_id(text: str) -> str:
    """Check the short name of an organization, which becomes a folder and a part of addresses.

    Raises
    ------
    InvalidInput
    """
    if not _ORGANIZATION_ID.fullmatch(text):
        raise InvalidInput(
            f"{text[:100]!r} is not a short name of an organization; take 1 to 63 of a-z, 0-9, _ and -, "
            "with a letter or digit first"
        )
    return text


def check_zone(text: str) -> str:
    """Check the name of a time zone.

    Raises
    ------
    InvalidInput
    """
    if text not in _zones():
        raise InvalidInput(f"{text[:100]!r} is not a time zone; write it like Europe/Berlin, or UTC")
    return text


def shortened(text: str, characters_max: int) -> str:
    """Cut what a browser says about itself to one line of a length that fits."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:characters_max])
    return line.strip()


def network_of(address: str) -> str:
    """Give what counts as one place that tries come from: of IPv6 the /64, as everybody has all addresses of one."""
    text = shortened(address, 64)
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed.packed, 64), strict=False))


@cache
def _zones() -> frozenset[str]:
    # `localtime` means another zone on every machine.
    return frozenset(zoneinfo.available_timezones()) - {"localtime"}
