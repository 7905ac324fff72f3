"""Attempt folders, seals and publication: nothing half-written is ever visible, nothing finished is ever lost.

An attempt writes into a folder of its own, ``<home>/.voxelworks/<work key>/<attempt>/``. Its home is the parent of the
new dataset, or the dataset that is added to, so that publication is a rename on one file system::

    result/        what becomes visible, as it will lie in the dataset
    checkpoints/   markers of finished blocks (see `blocks`)
    scratch/       anything else
    unpacked/      archives that the job reads, which are unpacked before it is known what the job depends on
    manifest.json  written by `seal`: size and checksum of each file of the result
    accepted.json  without a server: the answer of the job, whose publication begins now

A later attempt *adopts* the folder of an earlier one by renaming it. That also fences: an old attempt that wakes up
again finds its folder gone and can no longer touch what will be published. All attempts of a job share a folder,
because an isolated job sees that one and nothing around it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from voxelworks.errors import (
    DiskFull,
    InvalidInput,
    ResourcesExceeded,
    StorageFailed,
    TargetExists,
    TargetNotWritable,
    VoxelworksError,
)
from voxelworks.protocol.messages import SealedResult
from voxelworks.protocol.places import PREVIEW_FOLDER, is_remote
from voxelworks.volumes.files import remove_leftovers, replace_file, sync_folder
from voxelworks.volumes.metadata import (
    AttachmentKind,
    AttachmentProperties,
    DataSource,
    LayerProperties,
    MagProperties,
    load_datasource,
    save_datasource,
    save_groups,
)

WORK_FOLDER = ".voxelworks"
UNPACKED = "unpacked"
LOCK_FILE = "lock"
"""Beside the attempts, where no server keeps two of them apart."""
_T = TypeVar("_T")
_logger = logging.getLogger(__name__)
FileKind = Literal["dataset", "addition", "previews", "artifact", "model"]
"""Kinds of results that leave files."""
FileFacts = dict[str, tuple[int, str]]
"""Path below the result -> size in bytes and SHA-256."""


class NewAttachment(BaseModel):
    """A folder that is added to a layer, in place of an earlier one of its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: AttachmentKind
    name: str
    replaces: str | None
    """Path of the earlier one, as it was stated when the job began."""
    is_listed: bool = True
    """Whether other programs can read it; only then is it listed among the layer's attachments."""

    @classmethod
    def to(cls, layer: LayerProperties, kind: AttachmentKind, name: str) -> NewAttachment:
        """Choose another name than that of the earlier one: both exist until the new one is listed."""
        earlier = layer.path_of(kind)
        is_taken = earlier is not None and earlier.rstrip("/").endswith(f"/{name}")
        return cls(kind=kind, name=f"{name}-2" if is_taken else name, replaces=earlier)

    def folder(self, layer_name: str) -> str:
        """Give the path of the new folder below the dataset."""
        return f"{layer_name}/{self.kind}/{self.name}"


class NewLayer(BaseModel):
    """A layer that is added to a dataset, or put in place of an earlier one with its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    properties: LayerProperties
    """Its mags lie in other folders than those of the earlier one: both exist until it is listed."""
    replaces: LayerProperties | None = None
    """The earlier one, as it was stated when the job began."""

    @classmethod
    def folder_for(cls, earlier: LayerProperties | None) -> str:
        """Choose the folder within the layer where its mags lie: none at first, then `v2`, `v3`, and so on."""
        if earlier is None:
            return ""
        found = [re.fullmatch(r"(?:\./)?[^/]+/v(\d{1,9})/[^/]+", mag.path or "") for mag in earlier.mags]
        return f"v{max([1, *(int(match[1]) for match in found if match)]) + 1}"


class LayerChange(BaseModel):
    """What an addition changes in the properties of one layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    whole: NewLayer | None = None
    mags: tuple[MagProperties, ...] = ()
    largest_segment_id: int | None = None
    attachments: tuple[NewAttachment, ...] = ()

    @property
    def new_mags(self) -> tuple[MagProperties, ...]:
        """All that come with voxels."""
        return (*(self.whole.properties.mags if self.whole is not None else ()), *self.mags)

    def apply(self, source: DataSource) -> DataSource:
        if self.whole is not None:
            source = source.with_layer(self.whole.properties)
        if self.mags:
            source = source.merged_mags(self.layer, self.mags)
        for new in self.attachments:
            listed = AttachmentProperties.of(self.layer, new.kind, new.name) if new.is_listed else None
            source = source.with_attachment(self.layer, new.kind, listed)
            if new.kind == "segmentStatistics":
                source = source.with_segment_table(self.layer, f"./{new.folder(self.layer)}")
        if self.largest_segment_id is not None:
            source = source.with_largest_segment_id(self.layer, self.largest_segment_id)
        return source


class Manifest(BaseModel):
    """What was sealed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FileKind
    files: FileFacts
    changes: tuple[LayerChange, ...] = ()


@dataclass(frozen=True)
class AttemptFolder:
    """Where one attempt writes."""

    home: Path
    work_key: str
    attempt: int

    @classmethod
    def for_target(cls, kind: str, target: str, work_key: str, attempt: int) -> AttemptFolder:
        """Find the folder for a new dataset, model, file or pictures at `target`, or an addition to the dataset there.

        Raises
        ------
        TargetNotWritable
            If the target lies on a remote store, or its folder does not exist.
        """
        if is_remote(target):
            raise TargetNotWritable(
                f"{target} is remote and can only be read; choose a target on this machine"
            )
        path = Path(target).absolute()
        return cls(path if kind == "addition" else path.parent, work_key, attempt)

    @property
    def work(self) -> Path:
        """Folder of all attempts of this work."""
        return self.home / WORK_FOLDER / self.work_key

    @property
    def path(self) -> Path:
        return self.work / str(self.attempt)

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def unpacked(self) -> Path:
        return self.path / UNPACKED

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def accepted_path(self) -> Path:
        return self.path / "accepted.json"

    def prepare(self, fingerprint: str) -> bool:
        """Make the folder, or adopt what an earlier attempt left; say whether something was adopted.

        Leftovers with another fingerprint (other parameters, other input files) are removed, not adopted.

        Raises
        ------
        TargetNotWritable
        """
        try:
            earlier = self._earlier()
            if earlier:
                _take_over(earlier[-1], self.path)
            for leftover in earlier[:-1]:
                _remove_tree(leftover)
            # First: whoever finds these two believes that the result is whole.
            self.accepted_path.unlink(missing_ok=True)
            self.manifest_path.unlink(missing_ok=True)
            adopted = self.path.exists()
            if adopted and _read(self.path / "fingerprint") != fingerprint:
                adopted = False
                # What is unpacked is named after its archive, so that it never becomes wrong.
                for part in self.path.iterdir():
                    if part.name != UNPACKED:
                        _remove_tree(part) if part.is_dir() else part.unlink()
            _inside(self.work, lambda: self.path.mkdir(exist_ok=True))
            self.result.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            replace_file(self.path / "fingerprint", fingerprint)
        except OSError as error:
            raise _not_writable(self.home, error) from error
        return adopted

    def open_unpacked(self) -> Path:
        """Make the folder for unpacked archives, or take over that of an earlier attempt, before `prepare`.

        Raises
        ------
        TargetNotWritable
        DiskFull
        """
        try:
            if earlier := self._earlier():
                _take_over(earlier[-1], self.path)
            _inside(self.work, lambda: self.unpacked.mkdir(parents=True, exist_ok=True))
        except OSError as error:
            raise _not_writable(self.home, error) from error
        return self.unpacked

    @property
    def has_finished_block(self) -> bool:
        """Whether this attempt or an earlier one has left something to go on from."""
        folders = [*self._earlier(), self.path]
        return any(marker for folder in folders for marker in folder.glob("checkpoints/*/*.json"))

    def keep_slots(self, slots: int) -> int:
        """Give the number of slots by which the finished blocks of an earlier attempt are cut, or else note this one's.

        Without a finished block there is nothing to keep: the attempt may have begun with few of many slots.
        """
        file = self.path / "slots"
        kept = _read(file)
        if kept is not None and kept.isdecimal() and self.has_finished_block:
            return int(kept)
        try:
            replace_file(file, str(slots))
        except OSError as error:
            raise _not_writable(self.home, error) from error
        return slots

    def discard(self) -> None:
        """Remove this and all earlier folders of the same work, and the work folder if nothing else is in it."""
        for folder in [*self._earlier(), self.path]:
            for part in folder.glob("*/"):
                _remove_tree(part)
            # Last: it tells a run that is repeated after a crash that nothing else is left to do.
            for part in sorted(folder.glob("*"), key=lambda path: path.name == self.accepted_path.name):
                part.unlink(missing_ok=True)
            _remove_tree(folder)
        (self.work / LOCK_FILE).unlink(missing_ok=True)
        self._leave()

    def discard_refused(self, error: BaseException) -> None:
        """Leave nothing behind after bad input, or after work that needs too much and of which nothing is done."""
        if isinstance(error, InvalidInput) or (
            isinstance(error, ResourcesExceeded) and not self.has_finished_block
        ):
            self.discard()

    def discard_debris(self) -> None:
        """Remove what this attempt wrote after a later one had taken its folder over.

        A worker that was asleep goes on for a moment until it hears that it lost the job. What it writes then makes a
        new folder, which lacks what `prepare` writes.
        """
        # Where there is none, a successor may just be beginning: its empty folder must stay.
        if self.path.exists() and not (self.path / "fingerprint").exists():
            _remove_tree(self.path)
            self._leave()

    def open_work(self) -> Path:
        """Make the folder of all attempts before the job begins, which then needs no right to write around it.

        Raises
        ------
        OSError
        """
        _inside(self.work, lambda: None)
        return self.work

    def require_writable(self) -> None:
        """Raise `TargetNotWritable` unless the attempt can write; writes nothing that stays."""
        if not os.access(
            self.work, os.W_OK | os.X_OK
        ):  # made for an isolated job, which may write there alone
            require_writable_folder(self.home)

    def _leave(self) -> None:
        for folder in (self.work, self.work.parent):
            with suppress(
                OSError
            ):  # other attempts and jobs work here; or one that was killed had removed it already
                folder.rmdir()

    def _earlier(self) -> list[Path]:
        numbers = [number for number in attempt_numbers(self.work) if number < self.attempt]
        return [self.work / str(number) for number in numbers]


def attempt_numbers(work: Path) -> list[int]:
    """List the attempts that have a folder in the folder of their work, in order."""
    try:
        return sorted(int(path.name) for path in work.iterdir() if path.name.isdecimal())
    except FileNotFoundError:  # the last of them may just be removing the folder
        return []


def require_writable_folder(folder: Path) -> None:
    """Raise `TargetNotWritable` unless files can be made in `folder`; writes nothing that stays."""
    if not folder.is_dir():
        raise TargetNotWritable(f"folder {folder} does not exist; make it first, or choose another target")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TargetNotWritable(
            f"folder {folder} is not writable for this user; choose another target or change its rights"
        )


def seal(
    folder: AttemptFolder,
    *,
    kind: FileKind,
    known: Mapping[str, tuple[int, str]],
    changes: tuple[LayerChange, ...] = (),
) -> tuple[str, int]:
    """Write the manifest of a finished result and give its SHA-256 and the result's size in bytes, without pictures.

    Parameters
    ----------
    known : mapping
        Facts that the blocks found right after writing their files; other files are read here.
    """
    remove_leftovers(folder.result)
    files: FileFacts = {}
    for path in sorted(folder.result.rglob("*")):
        if path.is_dir():
            continue
        relative = path.relative_to(folder.result).as_posix()
        files[relative] = known.get(relative) or file_facts(path)
        if files[relative][0] != path.stat().st_size:
            raise StorageFailed(f"{path} is not what was written; run the job again")
    missing = sorted(set(known) - set(files))
    if missing:
        raise StorageFailed(f"{folder.result / missing[0]} was written but is gone; run the job again")
    # Without unset fields: what is merged into the properties shall hold only what was said.
    text = Manifest(kind=kind, files=files, changes=changes).model_dump_json(exclude_unset=True)
    replace_file(folder.manifest_path, text)
    # Without pictures: making them anew takes no more room.
    counted = (size for name, (size, _) in files.items() if not name.startswith(f"{PREVIEW_FOLDER}/"))
    return hashlib.sha256(text.encode()).hexdigest(), sum(counted)


def read_manifest(folder: AttemptFolder) -> Manifest:
    """Read what was sealed; it must have been."""
    return Manifest.model_validate_json(folder.manifest_path.read_text())


def file_facts(path: Path) -> tuple[int, str]:
    """Give size in bytes and SHA-256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return os.fstat(stream.fileno()).st_size, digest


def accept(result: SealedResult, folder: AttemptFolder) -> None:
    """Note, where there is no server, that a sealed result counts and will be published."""
    replace_file(folder.accepted_path, result.model_dump_json())


def complete(folder: AttemptFolder, target: str) -> SealedResult | None:
    """Complete a publication that was broken off after the first file had moved, and give the accepted result.

    Returns
    -------
    SealedResult or None
        None if nothing has moved yet: the work may be looked at anew.

    Raises
    ------
    TargetExists, StorageFailed
        See `publish`.
    """
    accepted, sealed = _read(folder.accepted_path), _read(folder.manifest_path)
    if accepted is None:
        return None
    result = SealedResult.model_validate_json(accepted)
    if sealed is None:
        return result  # it died while it cleared up
    files = Manifest.model_validate_json(sealed).files
    if all((folder.result / relative).exists() for relative in files):
        return None
    publish(result, target, work_key=folder.work_key, attempt=folder.attempt)
    return result


def publish(result: SealedResult, target: str, *, work_key: str, attempt: int) -> None:
    """Make a sealed result visible. May be repeated after a crash at any moment; the second time changes nothing.

    For an addition on a server the caller holds the lease of the dataset; on one machine a file lock suffices.

    Raises
    ------
    TargetExists
        If somebody else made the dataset, the model or the magnification meanwhile.
    StorageFailed
        If the sealed files are gone or are not those that were sealed.
    """
    if result.kind == "value":
        return
    folder = AttemptFolder.for_target(result.kind, target, work_key, attempt)
    text = _read(folder.manifest_path)
    if text is None or hashlib.sha256(text.encode()).hexdigest() != result.manifest_sha256:
        raise StorageFailed(f"{folder.path} no longer holds the sealed result; run the job again")
    manifest = Manifest.model_validate_json(text)
    try:
        if manifest.kind in ("dataset", "model"):
            _publish_folder(folder, Path(target).absolute(), manifest)
        elif manifest.kind == "artifact":
            _publish_artifact(folder, Path(target).absolute(), manifest)
        elif manifest.kind == "addition":
            with _dataset_lock(folder.home):
                _publish_addition(folder, folder.home, manifest)
        else:
            with _dataset_lock(folder.home):
                _adopt_pictures(folder, Path(target).absolute(), is_complete=True)
    except OSError as error:
        raise StorageFailed(f"publishing {target} failed: {error}; it is tried again") from error


def change_properties(dataset: Path, change: Callable[[DataSource], DataSource]) -> None:
    """Change what a dataset says about itself, and the OME groups with it. May be repeated after a crash at any moment.

    On a server the caller holds the lease of the dataset. It waits for other processes that publish into it.

    Raises
    ------
    InvalidDataset
        If its metadata cannot be understood.
    OSError
    """
    with _dataset_lock(dataset):
        save_datasource(dataset, change(load_datasource(dataset)))


def _publish_folder(folder: AttemptFolder, target: Path, manifest: Manifest) -> None:
    if folder.result.exists():
        if target.exists():
            raise TargetExists(f"{target} was made by somebody else while the job ran; choose another target")
        os.rename(folder.result, target)
        sync_folder(target.parent)
        return
    # An earlier try renamed it and died before it could tell.
    for relative in manifest.files:
        if not (target / relative).is_file():
            raise StorageFailed(f"{target / relative} is gone although it was sealed; run the job again")


def _publish_artifact(folder: AttemptFolder, target: Path, manifest: Manifest) -> None:
    ((name, (size, _)),) = manifest.files.items()
    made = folder.result / name
    if made.exists():
        if target.exists():  # a rename would replace it
            raise TargetExists(f"{target} was made by somebody else while the job ran; choose another name")
        os.rename(made, target)
        sync_folder(target.parent)
        return
    # An earlier try put it there and died before it could tell.
    if not (target.is_file() and target.stat().st_size == size):
        raise StorageFailed(f"{target} is gone although it was sealed; run the job again")


def _publish_addition(folder: AttemptFolder, dataset: Path, manifest: Manifest) -> None:
    source = load_datasource(dataset)
    staged = _still_staged(folder, dataset, manifest, source)
    for path in staged:
        final = dataset / path
        if final.exists():
            # Moved by a job that died before it could list it: nobody can know it.
            _set_aside(folder, dataset, path)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.rename(folder.result / path, final)
        sync_folder(final.parent)
    merged = source
    for change in manifest.changes:
        if change.whole is None or not _is_listed(folder, source, change.whole):
            merged = change.apply(merged)
    if merged != source:
        save_datasource(dataset, merged)  # replaces the properties in one step: the commit point
    else:
        save_groups(dataset, merged)  # an earlier try may have died between the two
    for path in _replaced(manifest):
        if (dataset / path).is_dir():
            _set_aside(folder, dataset, path)
    try:
        _adopt_pictures(folder, dataset / PREVIEW_FOLDER, is_complete=False)
    except OSError as error:
        _logger.warning("the pictures of %s stay as they are: %s", dataset, error)


def _adopt_pictures(folder: AttemptFolder, target: Path, *, is_complete: bool) -> None:
    staged = folder.result / PREVIEW_FOLDER
    if staged.is_dir():
        from voxelworks.volumes.previews import adopt  # slow import, which the processes of blocks do without

        adopt(staged, target, is_complete=is_complete)


def _still_staged(folder: AttemptFolder, dataset: Path, manifest: Manifest, source: DataSource) -> list[str]:
    """Check everything before the first is moved; give the paths of what an earlier try did not move."""
    staged: list[str] = []
    for change in manifest.changes:
        if change.whole is not None:
            staged += _still_staged_layer(folder, dataset, manifest, source, change.whole)
            continue
        listed = {mag.mag for mag in source.layer(change.layer).mags}
        for mag in change.mags:
            assert mag.path is not None
            path = mag.path.removeprefix("./")
            is_mine = not (folder.result / path).exists() and _is_as_sealed(dataset, path, manifest)
            if is_mine:
                continue
            if mag.mag in listed:
                raise TargetExists(
                    f"mag {mag.mag} of layer {change.layer!r} was added by somebody else meanwhile; nothing was changed"
                )
            if not (folder.result / path).exists():
                raise StorageFailed(f"{dataset / path} is not what was sealed; run the job again")
            staged.append(path)
        for new in change.attachments:
            path = new.folder(change.layer)
            if not (folder.result / path).exists() and _is_as_sealed(dataset, path, manifest):
                continue
            if source.layer(change.layer).path_of(new.kind) != new.replaces:
                raise TargetExists(
                    f"another {new.kind} was added to layer {change.layer!r} meanwhile; nothing was changed"
                )
            if not (folder.result / path).exists():
                raise StorageFailed(f"{dataset / path} is not what was sealed; run the job again")
            staged.append(path)
    return staged


def _still_staged_layer(
    folder: AttemptFolder, dataset: Path, manifest: Manifest, source: DataSource, new: NewLayer
) -> list[str]:
    if _is_listed(folder, source, new):
        return []
    name = new.properties.name
    found = _mags_of(source, name)
    if found != (None if new.replaces is None else new.replaces.mags):
        raise TargetExists(
            f"layer {name!r} was {'made' if new.replaces is None else 'changed'} by somebody else meanwhile; nothing "
            "was changed: run the job again, and it goes on from what is there now"
        )
    staged: list[str] = []
    for mag in new.properties.mags:
        assert mag.path is not None
        path = mag.path.removeprefix("./")
        if (folder.result / path).exists():
            staged.append(path)
        elif not _is_as_sealed(dataset, path, manifest):
            raise StorageFailed(f"{dataset / path} is not what was sealed; run the job again")
    return staged


def _is_listed(folder: AttemptFolder, source: DataSource, new: NewLayer) -> bool:
    """Tell whether an earlier try has made a layer visible already; others may have added to it since."""
    mags = new.properties.mags
    # Another job may have chosen the same folders: then those of this one still wait.
    is_moved = not any((folder.result / (mag.path or "")).exists() for mag in mags)
    return is_moved and _mags_of(source, new.properties.name) == mags


def _mags_of(source: DataSource, name: str) -> tuple[MagProperties, ...] | None:
    # They tell one state of a layer from those before and after, as each has folders of its own.
    return next((layer.mags for layer in source.data_layers if layer.name == name), None)


def _replaced(manifest: Manifest) -> Iterator[str]:
    """Give the folders, below the dataset, that are listed no longer. What lies elsewhere is not ours to remove."""
    for change in manifest.changes:
        if change.whole is not None and change.whole.replaces is not None:
            yield from _replaced_by(change.whole, change.whole.replaces)
        for new in change.attachments:
            path = PurePosixPath(new.replaces or "")
            if path.parts[:-1] == (change.layer, new.kind) and path.name != ".." and path.name != new.name:
                yield str(path)


def _replaced_by(new: NewLayer, earlier: LayerProperties) -> Iterator[str]:
    """Give what an earlier layer has left in its folder: its mags, and what was made of them."""
    listed = (earlier.model_extra or {}).get("attachments")
    attachments: list[object] = []
    for found in listed.values() if isinstance(listed, dict) else ():
        attachments += found if isinstance(found, list) else [found]
    paths: list[object] = [*(mag.path for mag in earlier.mags), earlier.segment_table]
    paths += [item.get("path") for item in attachments if isinstance(item, dict)]
    name = new.properties.name
    kept = {_part_of(mag.path, name) for mag in new.properties.mags}
    parts = {part for path in paths if (part := _part_of(path, name)) is not None}
    yield from (f"{name}/{part}" for part in sorted(parts - kept))


def _part_of(path: object, layer: str) -> str | None:
    """Give the folder right below that of a layer in which a path lies; None if it lies elsewhere."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    return parts[1] if len(parts) > 1 and parts[0] == layer and ".." not in parts else None


def _set_aside(folder: AttemptFolder, dataset: Path, path: str) -> None:
    """Move what is no longer wanted into the attempt's folder, which is removed at the end."""
    aside = folder.path / ("replaced-" + path.replace("/", "-"))
    if aside.exists():
        _remove_tree(aside)
    os.rename(dataset / path, aside)


def _is_as_sealed(dataset: Path, below: str, manifest: Manifest) -> bool:
    files = {relative: fact for relative, fact in manifest.files.items() if relative.startswith(below + "/")}
    return all(
        (dataset / relative).is_file() and (dataset / relative).stat().st_size == size
        for relative, (size, _) in files.items()
    )


@contextmanager
def _dataset_lock(dataset: Path) -> Iterator[None]:
    # The folder itself is locked: a lock file would stay in the dataset.
    descriptor = os.open(dataset, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(folder: AttemptFolder) -> Iterator[None]:
    """Keep a second process from the same work; the system frees the lock when this process ends in any way.

    Raises
    ------
    TargetExists
        If another process works on it right now.
    TargetNotWritable
    DiskFull
        If the disk is full.
    """
    path = folder.work / LOCK_FILE
    try:
        stream = _inside(folder.work, lambda: path.open("ab"))
    except OSError as error:
        raise _not_writable(folder.home, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TargetExists(
                f"another process is running the same job in {folder.home}; wait until it ends"
            ) from None
        yield


def _inside(work: Path, make: Callable[[], _T]) -> _T:
    """Make something in the folder of all attempts; another job that ends just now may be removing the one above."""
    for _ in range(10):
        work.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            work.mkdir(exist_ok=True)
            return make()
    return make()


def _take_over(earlier: Path, mine: Path) -> None:
    if mine.exists():
        _remove_tree(earlier)
        return
    os.rename(earlier, mine)


def _remove_tree(folder: Path) -> None:
    # A writer that is just being killed may still add files: two rounds suffice.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    raise StorageFailed(f"{folder} cannot be removed; check its rights")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _not_writable(home: Path, error: OSError) -> VoxelworksError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # Not the user's fault: another job may have filled it, and there may be room again soon.
        return DiskFull(f"cannot write to {home}: the disk is full; free some space")
    reason = {errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied"}
    return TargetNotWritable(
        f"cannot write to {home}: {reason.get(error.errno or 0, error.strerror)}; choose another target"
    )
