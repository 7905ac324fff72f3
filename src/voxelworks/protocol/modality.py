"""Kinds of microscopy: what layers and models state in words, and whether two of them are of one family."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from voxelworks.errors import InvalidParams

Family = Literal["electron", "light", "X-ray"]

ELECTRON = "electron microscopy"
LIGHT = "light microscopy"
XRAY = "X-ray microscopy"
SUGGESTED = (
    ELECTRON, "FIB-SEM", "serial block-face SEM", "serial-section TEM", LIGHT, "confocal", "light sheet",
    "two-photon", XRAY,
)  # fmt: skip
"""What forms offer; any other words will do."""
_LENGTH_MAX = 100
_FAMILIES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    (
        "electron",
        re.compile(
            r"electron|\b(cryo-?|multi-?|fib-?|sbf-?|atum-?|ss|sb|ff|gc|v)?(s?tem|s?em)\b|\bserial[- ](block|section)",
            re.IGNORECASE,
        ),
    ),
    (
        "light",
        re.compile(
            r"\blight|fluoresc|confocal|photon|lasers?canning|wide-?field|bright-?field|spinning|\bsted\b|\bsim\b|optical",
            re.IGNORECASE,
        ),
    ),
    ("X-ray", re.compile(r"x-?ray|\b(micro-?|nano-?|µ)?ct\b|synchrotron", re.IGNORECASE)),
)


def check_modality(text: str) -> str:
    """Give a kind of microscopy as it is kept: without needless spaces.

    Raises
    ------
    InvalidParams
        If it is too long, or holds what cannot be printed.
    """
    words = " ".join(text.split())
    if len(words) > _LENGTH_MAX or not words.isprintable():
        raise InvalidParams(
            f"{text[:_LENGTH_MAX]!r} names no kind of microscopy: give at most {_LENGTH_MAX} characters, "
            "such as FIB-SEM"
        )
    return words


Modality = Annotated[str, Field(max_length=1000), AfterValidator(check_modality)]
"""A kind of microscopy in words, such as `FIB-SEM`; empty if it is not known."""


def modality_of_channels(channels: Iterable[tuple[str | None, str | None]]) -> str:
    """Name the kind of microscopy of channels as OME and Zeiss describe them; empty if they do not tell.

    Parameters
    ----------
    channels : iterable of (acquisition mode, emission wavelength)
        As they are written; None where it is not.
    """
    # All modes but these are of light microscopes, and so is whatever emits.
    said = any((mode or "Other") not in ("Other", "Unknown") or wavelength for mode, wavelength in channels)
    return LIGHT if said else ""


def stated_modality(value: object) -> str | None:
    """Read what a file says, which anybody may have written; None if that is no kind of microscopy."""
    try:
        return (check_modality(value) or None) if isinstance(value, str) else None
    except InvalidParams:
        return None


def family_of(modality: str) -> Family | None:
    """Tell which family a kind of microscopy belongs to; None if the words name none, or several (as CLEM does)."""
    found = [family for family, words in _FAMILIES if words.search(modality)]
    return found[0] if len(found) == 1 else None


def are_apart(one: str, other: str) -> bool:
    """Whether two kinds of microscopy are of different families, as far as their words tell."""
    families = family_of(one), family_of(other)
    return None not in families and families[0] != families[1]
