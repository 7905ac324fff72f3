"""Names of the volumes that one file holds."""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = ("red", "green", "blue")


def part_name(*words: str) -> str:
    """Join what tells a volume from the others, such as `t0 DAPI`; words that tell nothing are empty."""
    return " ".join(word for word in words if word)


def numbered(letter: str, count: int) -> list[str]:
    """Give `t0`, `t1`, ...; an empty word if there is but one."""
    return [f"{letter}{index}" for index in range(count)] if count > 1 else [""]


def distinct(names: Sequence[str | None], letter: str) -> list[str]:
    """Give names that differ, by numbers where the file gives none or the same twice; an empty word for one alone.

    >>> distinct(["DAPI", None, "GFP", "GFP"], "c")
    ['DAPI', 'c1', 'GFP c2', 'GFP c3']
    """
    if len(names) == 1:
        return [""]
    cleaned = [" ".join((name or "").split()) for name in names]
    return [
        name if name and cleaned.count(name) == 1 else part_name(name, f"{letter}{index}")
        for index, name in enumerate(cleaned)
    ]
