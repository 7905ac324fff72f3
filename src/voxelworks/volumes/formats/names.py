"""Names of section files: their natural order, and the section numbers in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

_NUMBER = re.compile(r"(\d+)", re.ASCII)


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that puts `s_2` before `s_10`. Upper and lower case stand together."""
    parts = _NUMBER.split(name.lower())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


@dataclass(frozen=True)
class SectionNumbers:
    """Numbers that tell where each of several files stands in the stack."""

    numbers: tuple[int, ...]
    """Rising; one for each file. Equal ones mean two files for one section."""
    before: str
    """What stands in a name before its number."""
    after: str
    digits: int
    """Digits that the numbers are padded to with zeros; 1 if they are not."""

    @property
    def step(self) -> int:
        """Greatest step that reaches every number: every tenth section may be a whole stack."""
        return gcd(*(b - a for a, b in zip(self.numbers, self.numbers[1:], strict=False))) or 1

    @property
    def missing_count(self) -> int:
        return (self.numbers[-1] - self.numbers[0]) // self.step + 1 - len(self.numbers)

    def name(self, number: int) -> str:
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    def missing_names(self, at_most: int) -> list[str]:
        """Give the names that the first missing files should have."""
        names: list[str] = []
        for a, b in zip(self.numbers, self.numbers[1:], strict=False):
            for number in range(a + self.step, b, self.step):
                if len(names) == at_most:
                    return names
                names.append(self.name(number))
        return names


def section_numbers(stems: Sequence[str]) -> SectionNumbers | None:
    """Read the section numbers of files in natural order.

    Returns
    -------
    SectionNumbers or None
        None unless the names (without suffix) differ in exactly one number and in nothing else: then nothing
        can be said about gaps.
    """
    split = [_NUMBER.split(stem) for stem in stems]
    first = split[0]
    if len(stems) < 2 or any(len(parts) != len(first) or parts[::2] != first[::2] for parts in split):
        return None
    varying = [index for index in range(1, len(first), 2) if len({int(parts[index]) for parts in split}) > 1]
    if not varying:
        # Only the zeros before a number differ, as in s_1 and s_01.
        varying = [index for index in range(1, len(first), 2) if len({parts[index] for parts in split}) > 1]
    if len(varying) != 1:
        return None
    at = varying[0]
    texts = [parts[at] for parts in split]
    digits = (
        min(len(text) for text in texts)
        if any(text.startswith("0") and len(text) > 1 for text in texts)
        else 1
    )
    return SectionNumbers(
        tuple(int(text) for text in texts), "".join(first[:at]), "".join(first[at + 1 :]), digits
    )
