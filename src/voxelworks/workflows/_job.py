"""What a workflow's run function gets: references, folders, parallel blocks, progress, and the seal at the end."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from voxelworks.archives.limits import ArchiveLimits
from voxelworks.errors import (
    Cancelled,
    DiskFull,
    Interrupted,
    InvalidParams,
    StorageFailed,
    TargetExists,
    TimedOut,
    UnsafeReference,
    VoxelworksError,
)
from voxelworks.geometry import VoxelSize
from voxelworks.protocol.messages import ArtifactFile, Curve, Picture, Progress, SealedResult
from voxelworks.protocol.places import is_remote
from voxelworks.sizes import size_text
from voxelworks.volumes.metadata import PROPERTIES_FILE, MagProperties
from voxelworks.workflows._declare import Outcome, Params, Workflow
from voxelworks.workflows._refs import (
    AnnotationRef,
    DatasetRef,
    LayerRef,
    ModelRef,
    NewDatasetRef,
    NewModelRef,
    Resolver,
    SourceRef,
)
from voxelworks.workflows.publishing import AttemptFolder, LayerChange, read_manifest, seal

if TYPE_CHECKING:
    from voxelworks.ai.package import ModelPackage
    from voxelworks.blocks.checkpoints import Checkpoints
    from voxelworks.blocks.executor import Executor
    from voxelworks.protocol.views import LayerPreview
    from voxelworks.settings import Settings
    from voxelworks.volumes.annotations import Annotation
    from voxelworks.volumes.dataset import Dataset, Layer
    from voxelworks.volumes.streaming import StreamedArray
    from voxelworks.workflows._previews import Drawable

Item = TypeVar("Item")
Result = TypeVar("Result")
_ARCHIVE_LIMITS = ArchiveLimits(entries_max=200_000, bytes_max=2**50)
"""The disk limits the bytes."""
_SMALLER_FILE = "choose a smaller box or a coarser mag"


class Reporter(Protocol):
    """Where progress and log lines go."""

    def progress(self, progress: Progress) -> None: ...

    def log(self, text: str) -> None: ...


class StopFlag:
    """Tells a running job to stop, from a signal handler or another thread."""

    def __init__(self) -> None:
        self._error: VoxelworksError | None = None
        self.event = threading.Event()

    def set(self, error: VoxelworksError) -> None:
        self._error = self._error or error
        self.event.set()

    def check(self) -> None:
        """Raise the error that the flag was set with."""
        if self._error is not None:
            raise self._error


class Job:
    """One attempt of one job, seen from its workflow.

    A run function first looks at its input and refuses it, then calls `start_dataset` or `start_addition`, which is
    the first write, then `process` for the work.
    """

    def __init__(
        self,
        workflow: Workflow,
        params: Params,
        *,
        resolver: Resolver,
        work_key: str,
        attempt: int,
        settings: Settings,
        executor: Executor,
        reporter: Reporter,
        stop: StopFlag,
    ) -> None:
        self.settings = settings
        self.executor = executor
        self.slots = executor.slots
        """What blocks are planned for. Read once: a cluster grows and shrinks while a job runs."""
        self._workflow = workflow
        self._params = params
        self._resolver = resolver
        self._work_key = work_key
        self._attempt = attempt
        self._reporter = reporter
        self._stop = stop
        self._folder: AttemptFolder | None = None
        self._fingerprint = ""
        self._target: tuple[str, str | None] | None = None
        self._changes: list[LayerChange] = []
        self._unpacked: dict[SourceRef, Path] = {}
        self._media_type = ""
        self._facts: dict[str, tuple[int, str]] = {}
        self._units_done = 0
        self._units_total = 0
        self._curves: tuple[Curve, ...] = ()
        self._picture: Picture | None = None

    # Reading

    def locate(self, ref: SourceRef | ModelRef) -> str:
        """Give the path or address of a source, or the folder or zip of a model.

        Raises
        ------
        ModelNotFound
            If a model is named that is not installed here.
        """
        return self._resolver.locate(ref)

    @property
    def is_trusting(self) -> bool:
        """Whether what the user names may lead anywhere: yes for their own files, no on a server."""
        return self._resolver.is_trusting

    def unpack(
        self,
        ref: SourceRef,
        target: NewDatasetRef | DatasetRef | NewModelRef,
        *,
        limits: ArchiveLimits = _ARCHIVE_LIMITS,
        fetched_bytes_max: int | None = None,
    ) -> str:
        """Give the path or address of a source; if it is an archive, that of what is in it, unpacked for this job.

        What an earlier attempt unpacked is used again.

        Parameters
        ----------
        ref
        target
            What the job makes or adds to.
        limits
            What an archive may hold.
        fetched_bytes_max
            Fetch a file from another machine first, if it is no larger; by default its address is given.

        Raises
        ------
        InvalidArchive, UnsafeReference
            If the archive is broken or harmful.
        InvalidInput, ForbiddenAddress
            If the file on another machine cannot be had.
        DiskFull
            If the disk of the target has no room for what it holds.
        StorageFailed
            If the file system, or the other machine, does not answer.
        """
        from voxelworks import archives

        if ref in self._unpacked:
            return str(self._unpacked[ref])
        location = self.locate(ref)
        is_far = is_remote(location)
        if is_far and fetched_bytes_max is None:
            return location
        archive = None if is_far else archives.find(location)
        if archive is None and not is_far:
            return location
        try:
            home = self._open_unpacked(target)
            if archive is None:
                fetched = self._fetch(location, home, fetched_bytes_max or 0)
                archive = archives.find(fetched)
                if archive is None:
                    self._unpacked[ref] = fetched
                    return str(fetched)
            status = archive.stat()
            facts = (archive.name, status.st_size, status.st_mtime_ns)
            place = home / hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
            self.log(f"unpacking {ref}")
            found = archives.unpack(archive, place, limits, check=self.check, report=self._report_unpacked)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"cannot unpack {ref}: the disk is full; free some space") from error
            raise StorageFailed(f"cannot unpack {ref}: {error.strerror or error}") from error
        self._unpacked[ref] = found
        return str(found)

    def _open_unpacked(self, target: NewDatasetRef | DatasetRef | NewModelRef) -> Path:
        located = self._resolver.locate(target)
        kind = "addition" if isinstance(target, DatasetRef) else "dataset"
        folder = AttemptFolder.for_target(kind, located, self._work_key, self._attempt)
        self._folder = folder  # a refusal clears it up
        return folder.open_unpacked()

    def _fetch(self, address: str, home: Path, bytes_max: int) -> Path:
        """Bring a file from another machine; one that an earlier attempt brought is used again."""
        from voxelworks.workflows._fetching import fetch

        self.log(f"fetching {address}")
        return fetch(
            address, home, bytes_max=bytes_max, settings=self.settings, is_trusting=self.is_trusting,
            check=self.check, report=self._report_unpacked,
        )  # fmt: skip

    def _report_unpacked(self, done: int, total: int) -> None:
        text = f"{done // 2**20:,} of {total // 2**20:,} MiB"
        self._report(Progress(phase="unpacking", done=0, total=1, text=text))

    def require_inside(self, ref: SourceRef, files: Iterable[str | Path]) -> None:
        """On a server, refuse source files that lead out of their folder by symbolic links.

        Raises
        ------
        UnsafeReference
        """
        if self._resolver.is_trusting:
            return
        source = self._unpacked.get(ref) or Path(self.locate(ref))
        folder = source if source.is_dir() else source.parent
        for file in files:
            if not Path(file).resolve().is_relative_to(folder.resolve()):
                raise UnsafeReference(
                    f"{Path(file).name} in {ref} is a link that leads out of it; put the file itself there"
                )

    def open_annotation(self, ref: AnnotationRef) -> Annotation:
        """Open an annotation; `InvalidAnnotation` or `InvalidArchive` say what is wrong with its file."""
        from voxelworks.volumes.annotations import Annotation, Limits

        limits = Limits(self.settings.nml_bytes_max, self.settings.annotation_bytes_max)
        return Annotation.open(self._resolver.locate(ref), limits)

    def open_stream(self, ref: AnnotationRef, layer: str) -> StreamedArray | None:
        """Open a volume layer of an annotation as its WEBKNOSSOS shows it, with all mappings applied.

        None if nothing is known of a WEBKNOSSOS. Errors as of `open_stream` in `volumes.streaming`.
        """
        from voxelworks.volumes.streaming import open_stream

        stream = self._resolver.stream(ref)
        return None if stream is None else open_stream(stream[0], layer, stream[1], self.settings)

    def open_model(self, ref: ModelRef) -> ModelPackage:
        """Open a model, with its weights looked through; errors as of `read_package` in `ai.package`."""
        from voxelworks.ai.package import read_package

        return read_package(
            self.locate(ref), unpacked=self.settings.cache_dir / "models",
            bytes_max=self.settings.model_bytes_max,
        )  # fmt: skip

    def open_dataset(self, ref: DatasetRef) -> Dataset:
        from voxelworks.volumes.dataset import Dataset

        return Dataset.open(self._resolver.locate(ref), may_leave_folder=self._resolver.is_trusting)

    def open(self, ref: LayerRef) -> Layer:
        """Open a layer; `DatasetNotFound` or `LayerNotFound` if it is not there."""
        return self.open_dataset(ref.dataset).layer(ref.layer)

    # Writing

    def check_new_dataset(self, ref: NewDatasetRef) -> None:
        """Refuse a target that exists or cannot be written; for checks before a long look at the input."""
        target = self._resolver.locate(ref)
        folder = AttemptFolder.for_target("dataset", target, self._work_key, self._attempt)
        if Path(target).exists() or Path(target).is_symlink():
            raise TargetExists(f"{ref} exists already; choose another target, or remove it first")
        folder.require_writable()

    def start_dataset(
        self, ref: NewDatasetRef, voxel_size: VoxelSize, *, inputs: Sequence[object]
    ) -> Dataset:
        """Begin a new dataset; it gets its name only when the job is published.

        Parameters
        ----------
        ref
            Its name.
        voxel_size
        inputs
            What the result depends on beside the params, such as names, sizes and times of the input files: blocks
            that an earlier attempt finished are used again only if all of this is the same.
        """
        from voxelworks.volumes.dataset import Dataset

        self.check_new_dataset(ref)
        target = self._resolver.locate(ref)
        self._begin("dataset", target, self._resolver.place(ref), None, inputs)
        # Left by an attempt that was stopped after its last file, but before its result was accepted.
        (self.folder.result / PROPERTIES_FILE).unlink(missing_ok=True)
        return Dataset.create(self.folder.result, voxel_size, name=Path(target).name)

    def check_new_model(self, ref: NewModelRef) -> None:
        """Refuse a target that exists or cannot be written; for checks before a long look at the input."""
        target = self._resolver.locate(ref)
        folder = AttemptFolder.for_target("model", target, self._work_key, self._attempt)
        if Path(target).exists() or Path(target).is_symlink():
            raise TargetExists(f"{ref} exists already; choose another name, or remove it first")
        folder.require_writable()

    def start_model(self, ref: NewModelRef, *, inputs: Sequence[object]) -> Path:
        """Begin a new model; give the folder for its package. It gets its name only when the job is published.

        Parameters
        ----------
        ref
            Its name.
        inputs
            As for `start_dataset`.

        Raises
        ------
        TargetExists, TargetNotWritable
        """
        self.check_new_model(ref)
        target = self._resolver.locate(ref)
        self._begin("model", target, self._resolver.place(ref), None, inputs)
        return self.folder.result

    def start_addition(self, ref: LayerRef, *, inputs: Sequence[object]) -> Path:
        """Begin an addition to a dataset; give the folder that stands for the dataset's folder until publication."""
        target = self._resolver.locate(ref.dataset)
        folder = AttemptFolder.for_target("addition", target, self._work_key, self._attempt)
        folder.require_writable()
        self._begin("addition", target, self._resolver.place(ref.dataset), ref.layer, inputs)
        return self.folder.result

    def start_previews(self, ref: DatasetRef, *, inputs: Sequence[object]) -> None:
        """Begin the pictures of a dataset, which are all that the job leaves; see `draw_previews`."""
        place, target = self._resolver.previews(ref)
        folder = AttemptFolder.for_target("previews", target, self._work_key, self._attempt)
        folder.require_writable()
        self._begin("previews", target, place, None, inputs)

    def start_artifact(self, *, media_type: str, size_bytes: int, inputs: Sequence[object]) -> Path:
        """Begin a file for download; give the path to write it to. It gets its name only when the job is published.

        Parameters
        ----------
        media_type
            Such as ``application/zip``.
        size_bytes
            How large it may become at most, with what is needed beside it meanwhile.
        inputs
            As for `start_dataset`.

        Raises
        ------
        TargetExists, TargetNotWritable
        InvalidParams
            If it is larger than the operator allows.
        DiskFull
            If there is no room for it.
        """
        assert self._workflow.file_name is not None
        name = self._workflow.file_name(self._params)
        place, target = self._resolver.artifact(name)
        folder = AttemptFolder.for_target("artifact", target, self._work_key, self._attempt)
        if Path(target).exists() or Path(target).is_symlink():
            raise TargetExists(f"{name} exists already; choose another name, or remove it first")
        folder.require_writable()
        self._require_room(folder, size_bytes, _SMALLER_FILE)
        self._begin("artifact", target, place, None, inputs)
        self._media_type = media_type
        return self.folder.result / Path(name).name

    def require_room(self, size_bytes: int, *, remedy: str) -> None:
        """Do the same check again for a file whose size is known only when its input was looked at."""
        self._require_room(self.folder, size_bytes, remedy)

    def _require_room(self, folder: AttemptFolder, size_bytes: int, remedy: str) -> None:
        most = self.settings.artifact_bytes_max
        if most is not None and size_bytes > most:
            raise InvalidParams(
                f"the file may take {size_text(size_bytes)}, and files of at most {size_text(most)} are made here; "
                f"{remedy}"
            )
        # What an earlier attempt has written is part of it.
        written = sum(path.stat().st_size for path in folder.work.rglob("*") if path.is_file())
        free = shutil.disk_usage(folder.work if folder.work.exists() else folder.home).free + written
        if size_bytes > free:
            raise DiskFull(
                f"the file may take {size_text(size_bytes)}, and {size_text(free)} are free on the disk; "
                f"{remedy}, or free some space"
            )

    def change(self, change: LayerChange) -> None:
        """Note what the addition changes in the properties of the dataset."""
        self._changes.append(change)

    @property
    def folder(self) -> AttemptFolder:
        if self._folder is None:
            raise RuntimeError(f"{self._workflow.name} writes before start_dataset or start_addition")
        return self._folder

    def _begin(self, kind: str, target: str, place: str, layer: str | None, inputs: Sequence[object]) -> None:
        import voxelworks

        facts = (
            self._workflow.name, self._workflow.version, voxelworks.__version__, self._params.model_dump_json(),
            self.settings.shard_bytes_max, *inputs,
        )  # fmt: skip
        self._fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()
        self._folder = AttemptFolder.for_target(kind, target, self._work_key, self._attempt)
        self._target = (place, layer)
        if self._folder.prepare(self._fingerprint):
            self.log("going on where an earlier attempt stopped")
        # With another number blocks would be cut differently, and the finished ones be made anew.
        self.slots = self._folder.keep_slots(self.slots)

    # Working

    def log(self, text: str) -> None:
        self._reporter.log(text)

    def check(self) -> None:
        """Raise `Cancelled` or `Interrupted` if the job shall stop."""
        self._stop.check()

    def expect(self, units: int) -> None:
        """Tell how much work is to come over all phases, so that progress never goes backwards."""
        self._units_total = units

    def require_memory(
        self, memory_bytes_per_item: int, *, item: str = "block", remedy: str | None = None
    ) -> None:
        """Refuse work before it begins if not even one item of it fits into memory.

        Parameters
        ----------
        memory_bytes_per_item
            What `process` will be given.
        item, remedy
            For the error: what an item is, and how to make it smaller if not by smaller shards.

        Raises
        ------
        ResourcesExceeded
        """
        from voxelworks.blocks.memory import SMALLER_BLOCKS

        self.executor.room_for(memory_bytes_per_item, item=item, remedy=remedy or SMALLER_BLOCKS)

    def process(
        self,
        phase: str,
        items: Sequence[tuple[str, Item]],
        function: Callable[[Item], Result],
        *,
        units: int,
        memory_bytes_per_item: int,
        result_type: type[Result] | None = None,
        is_intact: Callable[[Result], bool] = lambda _: True,
        noun: str = "blocks",
        is_resumable: bool = True,
        at_once_max: int | None = None,
    ) -> list[Result]:
        """Run `function` on every item in parallel; see `blocks.process`.

        Parameters
        ----------
        phase
            Shown to users, such as ``color: mag 1 to 8``.
        items
            Pairs of a key, unique within the phase, and what `function` gets.
        function
            Picklable; runs in the processes of the executor.
        units
            How much of the work that `expect` announced this phase is.
        memory_bytes_per_item
            Peak memory of one call.
        result_type
            Type of the results, if it is not plain JSON.
        is_intact
            Whether what a block of an earlier attempt left is still there.
        noun
            What the items are called in progress and log.
        is_resumable
            Whether blocks finished by an earlier attempt are skipped.
        at_once_max
            Most that run side by side, such as where each needs a GPU.
        """
        from voxelworks.blocks.processing import process

        base, total = self._units_done, max(self._units_total, self._units_done + units)

        def report(progress: Progress) -> None:
            share = progress.done / progress.total if progress.total else 1.0
            done = base + int(units * share)
            text = f"{progress.done} of {progress.total} {noun}" if progress.total else ""
            self._report(Progress(phase=phase, done=done, total=total, text=progress.text or text))

        begun_s = time.monotonic()
        results = process(
            items, function, executor=self.executor, phase=phase, report=report, check=self.check,
            checkpoints=self._checkpoints() if is_resumable else None, result_type=result_type,
            is_intact=is_intact, memory_bytes_per_item=memory_bytes_per_item,
            at_once_max=at_once_max, tries=self.settings.block_tries,
        )  # fmt: skip
        self._units_done = base + units
        count = f"{len(items)} {noun if len(items) != 1 else noun.removesuffix('s')}"
        self.log(f"{phase}: {count} in {time.monotonic() - begun_s:.1f} s")
        return results

    def draw(self, curves: Sequence[Curve], picture: Picture | None = None) -> None:
        """Show curves and a picture on the page of the job from now on, in place of the ones before."""
        self._curves, self._picture = tuple(curves), picture

    def _report(self, progress: Progress) -> None:
        shown = {"curves": self._curves, "picture": self._picture}
        self._reporter.progress(progress.model_copy(update=shown) if self._curves else progress)

    def tell(self, phase: str, done: int, text: str) -> None:
        """Tell of the progress of work that is not made of blocks, of which so many units are done."""
        self._report(Progress(phase=phase, done=done, total=max(done, self._units_total), text=text))

    def skip(self, units: int) -> None:
        """Count work that `expect` announced and that turned out to be done already."""
        self._units_done += units

    def is_finished(
        self,
        phase: str,
        items: Sequence[tuple[str, object]],
        *,
        result_type: type[Result] | None = None,
        is_intact: Callable[[Result], bool] = lambda _: True,
    ) -> bool:
        """Tell whether an earlier attempt finished all items of a phase, so that `process` will run none of them."""
        from voxelworks.blocks.processing import are_done

        return are_done(
            (key for key, _ in items), phase=phase, checkpoints=self._checkpoints(), result_type=result_type,
            is_intact=is_intact,
        )  # fmt: skip

    def _checkpoints(self) -> Checkpoints:
        from voxelworks.blocks.checkpoints import Checkpoints

        return Checkpoints(self.folder.checkpoints, self._fingerprint)

    def remember_files(self, facts: dict[str, tuple[int, str]]) -> None:
        """Keep size and checksum of result files that blocks have just written, so that the seal need not read them."""
        self._facts.update(facts)

    def draw_previews(self, layers: Sequence[Drawable]) -> dict[str, Exception]:
        """Draw the pictures of layers into the result; give the layers that cannot be drawn, and why.

        One unit of the work that `expect` announced is counted for each layer.
        """
        from voxelworks.volumes.previews import PREVIEW_FOLDER, save_index
        from voxelworks.workflows._previews import MEMORY_BYTES, draw

        folder = self.folder.result / PREVIEW_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was stopped meanwhile
        folder.mkdir()
        drawn: dict[str, LayerPreview] = {}
        failures: dict[str, Exception] = {}
        for layer in layers:
            self.check()
            progress = Progress(
                phase="pictures", done=self._units_done, total=self._units_total, text=layer.name
            )
            self._report(progress)
            try:
                self.require_memory(MEMORY_BYTES, item="picture", remedy="wait until less runs here")
                preview = draw(layer, folder)
            except Exception as error:
                self.log(f"{layer.name}: no pictures: {error}")
                failures[layer.name] = error
                preview = None
            if preview is not None:
                drawn[layer.name] = preview
            self._units_done = min(self._units_done + 1, self._units_total)
        if drawn:
            save_index(folder, drawn)
        else:
            shutil.rmtree(folder)
        return failures

    # Ending

    def seal(self, outcome: Outcome) -> SealedResult:
        """Write the manifest; from here on the result is complete, and still visible to nobody."""
        self.check()
        # What was not looked at is no part of the answer.
        value = outcome.model_dump(mode="json", exclude_unset=True)
        if outcome.kind == "value":
            return SealedResult(kind="value", value=value)
        assert self._target is not None
        place, layer = self._target
        if outcome.kind in ("dataset", "addition"):
            self._draw_what_is_new(outcome.kind)
        self._report(
            Progress(
                phase="sealing", done=self._units_total, total=self._units_total, text="checking every file"
            )
        )
        kind = outcome.kind
        digest, size = seal(self.folder, kind=kind, known=self._facts, changes=tuple(self._changes))
        return SealedResult(
            kind=kind, place=place, layer=layer, value=value, manifest_sha256=digest, size_bytes=size,
            file=self._artifact_file() if kind == "artifact" else None,
        )  # fmt: skip

    def _artifact_file(self) -> ArtifactFile:
        ((name, (size, sha256)),) = read_manifest(self.folder).files.items()
        return ArtifactFile(name=name, media_type=self._media_type, size_bytes=size, sha256=sha256)

    def _draw_what_is_new(self, kind: Literal["dataset", "addition"]) -> None:
        """Draw the layers that the job made or added mags to. Nothing that goes wrong here harms the job."""
        try:
            layers = self._new_layers() if kind == "dataset" else self._changed_layers()
            if layers:
                self.draw_previews(layers)
        except (Cancelled, Interrupted, TimedOut):
            raise
        except Exception as error:
            self.log(f"no pictures: {error}")

    def _new_layers(self) -> list[Drawable]:
        from voxelworks.volumes.dataset import Dataset
        from voxelworks.workflows._previews import Drawable

        return [Drawable.of(layer) for layer in Dataset.open(self.folder.result).layers]

    def _changed_layers(self) -> list[Drawable]:
        added = [change for change in self._changes if change.new_mags]
        if not added:
            return []
        from voxelworks.volumes.arrays import MagArray
        from voxelworks.volumes.dataset import Dataset
        from voxelworks.workflows._previews import Drawable

        def staged(layer: Layer, item: MagProperties) -> MagArray:
            assert item.path is not None
            location = str(self.folder.result / item.path)
            box = layer.box.in_mag(item.mag)
            return MagArray(location, item.mag, box, layer.dtype, layer.channel_count, axes=item.axes)

        dataset = Dataset.open(self.folder.home, may_leave_folder=self._resolver.is_trusting)
        for change in added:
            if change.whole is not None:
                dataset.source = change.apply(dataset.source)
        layers = {change.layer: dataset.layer(change.layer) for change in added}
        return [
            Drawable.of(
                layers[change.layer], [staged(layers[change.layer], item) for item in change.new_mags]
            )
            for change in added
        ]

    def discard_refused(self, error: BaseException) -> None:
        """After a refusal leave nothing behind, not even the attempt's folder."""
        if self._folder is not None:
            self._folder.discard_refused(error)
