"""Places: how server and workers name data without telling each other paths.

A place is a text: ``data:ORGANIZATION/NAME`` for a dataset in the folder of datasets, ``previews:ORGANIZATION/NAME``
for its pictures, ``artifact:ORGANIZATION/JOB`` for the file that a job leaves, ``annotation:ORGANIZATION/FILE`` for an
uploaded annotation, ``model:ORGANIZATION/NAME/VERSION`` for a version of a model, ``installed:NAME`` for a model that
is installed on each machine, ``root:NAME/relative`` below an import root that the operator allowed,
``upload:ORGANIZATION/ID/relative`` for files that somebody sent, or an ``http(s)``, ``s3`` or ``gs`` address on an
allowed host and port or in an allowed bucket. Each side finds it below its own folders, so mounts may differ, and
nothing outside can ever be named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

from voxelworks.errors import UnsafeReference
from voxelworks.origins import allowed_origin, origin_of
from voxelworks.protocol.installed_models import INSTALLED, find_installed

if TYPE_CHECKING:
    from voxelworks.settings import ImportRoot, Settings

REMOTE_SCHEMES = ("http", "https", "s3", "gs")
PREVIEW_FOLDER = ".previews"
"""Folder in a dataset with pictures of its layers; programs that look for layers pass it by."""
PREVIEWS_OF = "previews:"
"""Before a reference in the places of a job: where the pictures of that dataset go. Also the kind of such a place."""
STREAM_OF = "stream:"
"""Before a reference to an annotation: where its WEBKNOSSOS gives its voxels, with all mappings applied."""
_ANNOTATION = "annotation:"
ARTIFACT = "artifact:"
"""Among the places of a job: where the file goes that it leaves. Also the kind of such a place."""
MODEL = "model:"
"""How the places of models begin that organizations have."""
OWN_PLACES = ("data:", PREVIEWS_OF, _ANNOTATION, ARTIFACT, MODEL, INSTALLED)
"""How places begin that the server alone gives out: nobody may name them."""
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A dataset or layer name: it becomes a folder name and part of addresses."""
ORGANIZATION_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Short name of an organization: the name of the folder that holds its datasets."""
UPLOAD_ID = re.compile(r"[0-9a-f]{16}")
JOB_ID = re.compile(r"[0-9a-f]{16}")
UPLOADS_FOLDER = ".uploads"
"""In the folder of an organization: beside its datasets, so that workers on other machines find it too."""
_ANNOTATION_FILE = re.compile(r"[0-9a-f]{16}\.(?:nml|zip)")
ARTIFACTS_FOLDER = ".artifacts"
"""There too: files for download, each under the id of its job."""
MODELS_FOLDER = ".models"
"""There too: models, each with a folder for each version."""
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
FILE_NAME_BYTES_MAX = 200
_LINKED = re.compile(r"@[0-9a-f]{16}")
"""Id of a dataset that is only read, in the place of its pictures."""


def is_remote(text: str) -> bool:
    return text.split("://", 1)[0] in REMOTE_SCHEMES and "://" in text


def dataset_place(organization_id: str, name: str) -> str:
    """Give the place of a dataset in the folder of datasets."""
    return f"data:{organization_id}/{name}"


def upload_place(organization_id: str, upload_id: str, relative: str = "") -> str:
    """Give the place of the files of an upload, or of a folder among them."""
    return f"upload:{organization_id}/{upload_id}" + (f"/{relative}" if relative else "")


def previews_place(organization_id: str, dataset_id: str, place: str, *, is_linked: bool) -> str:
    """Give the place of the pictures of a dataset: in it, or beside those of its organization if it is only read."""
    name = f"@{dataset_id}" if is_linked else place.removeprefix(dataset_place(organization_id, ""))
    return f"{PREVIEWS_OF}{organization_id}/{name}"


def annotation_place(organization_id: str, file_name: str) -> str:
    """Give the place of the file of an annotation."""
    return f"{_ANNOTATION}{organization_id}/{file_name}"


def artifact_place(organization_id: str, job_id: str) -> str:
    """Give the place of the file that a job leaves for download."""
    return f"{ARTIFACT}{organization_id}/{job_id}"


def model_place(organization_id: str, name: str, version: int) -> str:
    """Give the place of a version of a model."""
    return f"{MODEL}{organization_id}/{name}/{version}"


def why_no_file_name(name: str) -> str | None:
    """Say why a text cannot be the name of a file that people download; None if it can, in any script."""
    if not name or name.startswith(".") or name != name.strip():
        return "a name begins with neither a dot nor a space, and does not end with a space"
    if any(character in '/\\:*?"<>|' or not character.isprintable() for character in name):
        return 'a name holds no / \\ : * ? " < > | and nothing that cannot be printed'
    if len(name.encode(errors="replace")) > FILE_NAME_BYTES_MAX:
        return f"a name has at most {FILE_NAME_BYTES_MAX} bytes"
    return None


@dataclass(frozen=True)
class Places:
    """Where this machine keeps what places name."""

    data_dir: Path
    import_roots: Mapping[str, ImportRoot] = field(default_factory=dict)
    remote_hosts: frozenset[str] = frozenset()
    model_roots: tuple[Path, ...] = ()
    """Folders of installed models."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.datasets_dir, settings.import_roots, settings.remote_hosts, settings.model_roots)

    def for_organization(self, organization_id: str) -> Self:
        """Leave out the import roots that an organization may not read."""
        readable = {
            name: root for name, root in self.import_roots.items() if root.is_open_to(organization_id)
        }
        return replace(self, import_roots=readable)

    def locate(self, place: str) -> str:
        """Give the path or address of a place.

        Raises
        ------
        UnsafeReference
            If the place is not a place, leaves its root (also by a symbolic link), or is on a host that is not allowed.
        """
        if is_remote(place):
            return self._allowed_address(place)
        kind, _, rest = place.partition(":")
        if kind == "data":
            organization_id, name = _dataset_parts(place, rest)
            return str(_below(self.data_dir / organization_id, name, place))
        if kind == "upload":
            organization_id, upload_id, relative = upload_parts(place)
            return str(_below(self.upload_folder(organization_id, upload_id) / "files", relative, place))
        if kind == "annotation":
            from voxelworks.settings import ANNOTATIONS_FOLDER  # slow, and blocks of jobs read no annotations

            organization_id, name = annotation_parts(place)
            return str(_below(self.data_dir / ANNOTATIONS_FOLDER / organization_id, name, place))
        if kind == "previews":
            organization_id, folder = _preview_parts(place, rest)
            return str(_below(self.data_dir / organization_id, folder, place))
        if kind == "artifact":
            organization_id, job_id = _artifact_parts(place, rest)
            return str(_below(self.data_dir / organization_id / ARTIFACTS_FOLDER, job_id, place))
        if kind == "model":
            organization_id, name, version = model_parts(place)
            return str(_below(self.data_dir / organization_id / MODELS_FOLDER / name, str(version), place))
        if kind == "installed":
            return str(find_installed(_installed_name(place, rest), self.model_roots))
        if kind == "root":
            name, _, relative = rest.partition("/")
            if name not in self.import_roots:
                raise UnsafeReference(
                    f"{place!r}: there is no import root {name!r}; allowed: {self._known_roots()}"
                )
            return str(_below(self.import_roots[name].path, relative, place))
        if is_remote(place.lower()):
            raise UnsafeReference(f"{place!r}: write {kind.lower()}:// in small letters")
        raise UnsafeReference(
            f"{place!r} is not a place that this server reads; name one below an import root ({self._known_roots()})"
        )

    def folder_of(self, place: str) -> Path:
        """Give the folder that a dataset has by its name, even if a symbolic link is in its stead.

        Raises
        ------
        UnsafeReference
            If the place is not that of a dataset.
        """
        organization_id, name = _dataset_parts(place, place.removeprefix("data:"))
        return self.data_dir / organization_id / name

    def upload_folder(self, organization_id: str, upload_id: str) -> Path:
        """Give the folder of an upload: its files lie in `files`."""
        return self.data_dir / organization_id / UPLOADS_FOLDER / upload_id

    def make_home(self, place: str) -> None:
        """Make the folder of an organization that has no dataset on this machine yet; other places need none.

        Raises
        ------
        OSError
            If it is missing and cannot be made, as when the folder of datasets is not mounted.
        """
        kind, _, rest = place.partition(":")
        if kind in ("data", "previews"):
            organization_id, _ = (_dataset_parts if kind == "data" else _preview_parts)(place, rest)
            (self.data_dir / organization_id).mkdir(exist_ok=True)
        if kind == "artifact":
            organization_id, _ = _artifact_parts(place, rest)
            for folder in (
                self.data_dir / organization_id,
                self.data_dir / organization_id / ARTIFACTS_FOLDER,
            ):
                folder.mkdir(exist_ok=True)
        if kind == "model":
            organization_id, name, _ = model_parts(place)
            models = self.data_dir / organization_id / MODELS_FOLDER
            for folder in (models.parent, models, models / name):
                folder.mkdir(exist_ok=True)

    def _known_roots(self) -> str:
        return ", ".join(f"root:{name}/..." for name in sorted(self.import_roots)) or "none is set up"

    def _allowed_address(self, address: str) -> str:
        origin = origin_of(address)
        if origin not in {allowed_origin(allowed) for allowed in self.remote_hosts}:
            raise UnsafeReference(
                f"{address!r}: {origin} is not on this server's list of allowed remote hosts"
            )
        return address


def upload_parts(place: str) -> tuple[str, str, str]:
    """Give organization, upload and relative path of the place of an upload.

    Raises
    ------
    UnsafeReference
        If it is none.
    """
    organization_id, _, rest = place.removeprefix("upload:").partition("/")
    upload_id, _, relative = rest.partition("/")
    is_one = place.startswith("upload:") and ORGANIZATION_ID.fullmatch(organization_id)
    if not (is_one and UPLOAD_ID.fullmatch(upload_id)):
        raise UnsafeReference(
            f"{place!r} is not the place of an upload; it is written upload:ORGANIZATION/ID"
        )
    return organization_id, upload_id, relative


def annotation_parts(place: str) -> tuple[str, str]:
    """Give organization and file name of the place of an annotation.

    Raises
    ------
    UnsafeReference
        If it is none.
    """
    organization_id, _, name = place.removeprefix(_ANNOTATION).partition("/")
    is_one = place.startswith(_ANNOTATION) and ORGANIZATION_ID.fullmatch(organization_id)
    if not (is_one and _ANNOTATION_FILE.fullmatch(name)):
        raise UnsafeReference(
            f"{place!r} is not the place of an annotation; it is written annotation:ORGANIZATION/FILE"
        )
    return organization_id, name


def model_parts(place: str) -> tuple[str, str, int]:
    """Give organization, folder and version of the place of a model.

    Raises
    ------
    UnsafeReference
        If it is none.
    """
    organization_id, _, rest = place.removeprefix(MODEL).partition("/")
    name, _, version = rest.partition("/")
    is_one = place.startswith(MODEL) and ORGANIZATION_ID.fullmatch(organization_id)
    if not (is_one and DATASET_NAME.fullmatch(name) and _VERSION.fullmatch(version)):
        raise UnsafeReference(
            f"{place!r} is not the place of a model; it is written model:ORGANIZATION/NAME/VERSION"
        )
    return organization_id, name, int(version)


def _installed_name(place: str, name: str) -> str:
    if not DATASET_NAME.fullmatch(name):
        raise UnsafeReference(f"{place!r} is not the place of an installed model")
    return name


def _dataset_parts(place: str, rest: str) -> tuple[str, str]:
    """Give organization and name. Nothing above or below a dataset is a place: work folders lie there."""
    organization_id, _, name = rest.partition("/")
    if not (ORGANIZATION_ID.fullmatch(organization_id) and DATASET_NAME.fullmatch(name)):
        raise UnsafeReference(
            f"{place!r} is not the place of a dataset; it is written data:ORGANIZATION/NAME"
        )
    return organization_id, name


def _artifact_parts(place: str, rest: str) -> tuple[str, str]:
    """Give organization and job."""
    organization_id, _, job_id = rest.partition("/")
    if not (ORGANIZATION_ID.fullmatch(organization_id) and JOB_ID.fullmatch(job_id)):
        raise UnsafeReference(f"{place!r} is not the place of a file that a job leaves")
    return organization_id, job_id


def _preview_parts(place: str, rest: str) -> tuple[str, str]:
    """Give organization and folder of pictures."""
    organization_id, _, name = rest.partition("/")
    is_linked = _LINKED.fullmatch(name)
    if not (ORGANIZATION_ID.fullmatch(organization_id) and (is_linked or DATASET_NAME.fullmatch(name))):
        raise UnsafeReference(f"{place!r} is not the place of the pictures of a dataset")
    return organization_id, f"{PREVIEW_FOLDER}-{name[1:]}" if is_linked else f"{name}/{PREVIEW_FOLDER}"


def _below(root: Path, relative: str, place: str) -> Path:
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\0" in relative or "\\" in relative:
        raise UnsafeReference(f"{place!r} leaves its root; name a path below it, without '..'")
    resolved_root = root.resolve()
    resolved = (resolved_root / parts).resolve()
    if not resolved.is_relative_to(resolved_root):
        raise UnsafeReference(f"{place!r} leads out of its root through a symbolic link")
    return resolved
