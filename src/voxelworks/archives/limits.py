"""What an archive of a stranger may hold."""

from __future__ import annotations

from dataclasses import dataclass

from voxelworks.errors import InvalidArchive

RATIO_FREE_BYTES = 2**20
"""What is no larger may be packed as tightly as it likes: small texts repeat themselves."""


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold."""

    entries_max: int
    bytes_max: int
    """Of all entries together, unpacked."""
    ratio_max: int = 200
    """Bytes unpacked for each packed byte, of an entry over 1 MiB and of the whole archive."""

    def check_growth(self, name: str, packed: int, size: int) -> None:
        """Refuse what unpacks to far more than it takes.

        Raises
        ------
        InvalidArchive
        """
        if size > RATIO_FREE_BYTES and size > self.ratio_max * packed:
            raise InvalidArchive(
                f"{name} unpacks to over {self.ratio_max} times its size, which looks like an attack; "
                "pack it less tightly, or ask the operator"
            )
