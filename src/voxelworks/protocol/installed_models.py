"""Models that are installed on a machine: those that come with Voxelworks, and those that somebody added.

Each is the folder of a package, found by its name: see `Settings.model_roots`. Nothing here loads a network.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxelworks.errors import ModelNotFound, VoxelworksError
from voxelworks.protocol.models import MODEL_FILE, ModelFacts, read_facts

if TYPE_CHECKING:
    from voxelworks.protocol.views import ModelView

INSTALLED = "installed:"
"""How the places of such models begin."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InstalledModel:
    """A model that everybody on this machine can name."""

    name: str
    folder: Path
    facts: ModelFacts

    @property
    def id(self) -> str:
        """An id that looks like others: it stands in addresses, and in the protocol of WEBKNOSSOS."""
        return hashlib.sha256(f"{INSTALLED}{self.name}".encode()).hexdigest()[:16]

    @property
    def view(self) -> ModelView:
        from voxelworks.protocol.views import ModelVersionView, ModelView  # blocks of jobs do without

        version = ModelVersionView(
            number=1, place=f"{INSTALLED}{self.name}", facts=self.facts, size_bytes=self.facts.weights_bytes,
            user_id=None, made_by_job=None, created_ms=None,
        )  # fmt: skip
        return ModelView(
            id=self.id, name=self.name, organization_id=None, comment="", user_id=None, created_ms=None,
            updated_ms=None, versions=(version,),
        )  # fmt: skip


def list_installed(roots: Sequence[Path]) -> tuple[InstalledModel, ...]:
    """List the installed models by name. Of two of one name the one in the first folder counts.

    What cannot be read is left out, and logged.
    """
    found: dict[str, InstalledModel] = {}
    for folder in _folders(roots):
        if folder.name in found:
            continue
        try:
            found[folder.name] = InstalledModel(folder.name, folder, read_facts(folder))
        except VoxelworksError as error:
            _logger.warning("a model is left out: %s", error)
    return tuple(found[name] for name in sorted(found))


def find_installed(name: str, roots: Sequence[Path]) -> Path:
    """Give the folder of an installed model.

    Raises
    ------
    ModelNotFound
        Naming those that are installed.
    """
    known: list[str] = []
    for folder in _folders(roots):
        if folder.name == name:
            return folder
        known.append(folder.name)
    there = ", ".join(sorted(set(known))) or "none"
    raise ModelNotFound(
        f"there is no model {name!r} on this machine; installed are {there}, and `voxelworks models add` adds others"
    )


def _folders(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_dir():
            yield from sorted(folder for folder in root.iterdir() if (folder / MODEL_FILE).is_file())
