"""Bring a model in from a file, a folder or an address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from voxelworks.errors import InvalidModel, InvalidParams, SourceNotFound, StorageFailed
from voxelworks.geometry import Vec3
from voxelworks.protocol.models import TASK_OUTPUTS, TRAINED_WEIGHTS, ModelFacts
from voxelworks.workflows import (
    ADVANCED,
    FREE,
    Inputs,
    Job,
    NewModel,
    NewModelRef,
    Params,
    SourceRef,
    VoxelSize,
    workflow,
)

if TYPE_CHECKING:
    from voxelworks.ai.package import ForeignPackage

_SIZES = ("patch", "border")
_TEST_TENSORS = ("test-input.npy", "test-output.npy")
_ORIGINALS = {"README.md": "original-README.md"}
_TEXT_BYTES_MAX = 2**20
_LEFT_TO_SAY = {
    "task": "what the network gives",
    "structure": "what it finds, such as mitochondria",
    "voxel_size": "the size of voxels that it was trained on",
    "outputs": "what each of its channels is",
    "offsets": "which voxels each affinity is about",
    "distance_scale_nm": "how long a distance of 1 is",
    "patch": "how many voxels it takes at once",
}


class ImportModelParams(Params):
    """Where the model is, and what its package does not say of it."""

    source: SourceRef
    """Folder or zip of a model package, or an ONNX file alone; on a server also `upload:ID` or an allowed address."""

    target: NewModelRef
    """Name of the model here."""

    task: Literal["affinities", "instances", "semantic"] | None = None
    """What the network gives: neighbours that belong together, objects with their distances, or only what is inside."""

    structure: str | None = Field(None, max_length=100)
    """What it finds, such as `mitochondria`."""

    voxel_size: VoxelSize | None = None
    """Size of the voxels that it was trained on, in nanometres, `x,y,z`."""

    licence: str | None = Field(None, max_length=200)
    """Licence of the weights, such as `CC-BY-4.0`; shown wherever the model is used."""

    title: Annotated[str | None, Field(max_length=200), ADVANCED] = None
    """What people read in place of the name."""

    outputs: Annotated[str | None, ADVANCED] = None
    """Channels that the network gives, such as `foreground,distance`."""

    offsets: Annotated[str | None, ADVANCED] = None
    """Only for affinities: offset of each channel in voxels, `x,y,z`, with semicolons between: `1,0,0;0,1,0`."""

    distance_scale_nm: Annotated[float | None, Field(gt=0), ADVANCED] = None
    """Only for instances: distance from the surface, in nanometres, for which the channel `distance` is 1."""

    voxel_size_min: Annotated[VoxelSize | None, ADVANCED] = None
    """Smallest voxels of layers that the model is for; by default half of those that it was trained on."""

    voxel_size_max: Annotated[VoxelSize | None, ADVANCED] = None
    """Largest such voxels; by default twice those that it was trained on."""

    patch: Annotated[str | None, ADVANCED] = None
    """Voxels that the network takes at once, `x,y,z`."""

    border: Annotated[str | None, ADVANCED] = None
    """Voxels at each side of a patch whose results are not used, `x,y,z`."""

    normalization: Annotated[Literal["standardize", "none"] | None, ADVANCED] = None
    """How intensities are changed before: to mean 0 and deviation 1 over the layer, or not at all."""

    modality: Annotated[str | None, Field(max_length=200), ADVANCED] = None
    """Kind of microscopy that it was trained for, such as `FIB-SEM`."""

    tissue: Annotated[str | None, Field(max_length=200), ADVANCED] = None
    """Tissue that it was trained on."""

    limits: Annotated[str | None, Field(max_length=2000), ADVANCED] = None
    """What it is not good for."""

    @field_validator("patch", "border")
    @classmethod
    def _are_extents(cls, value: str | None) -> str | None:
        return None if value is None else ",".join(map(str, _whole_numbers(value)))

    @field_validator("offsets")
    @classmethod
    def _are_offsets(cls, value: str | None) -> str | None:
        if value is None:
            return None
        return ";".join(",".join(map(str, _whole_numbers(part))) for part in value.split(";"))

    @field_validator("outputs")
    @classmethod
    def _are_names(cls, value: str | None) -> str | None:
        names = [name.strip() for name in (value or "").split(",")]
        if value is not None and not all(names):
            raise InvalidParams(f"{value!r} names no channels; write them with commas: foreground,distance")
        return None if value is None else ",".join(names)


def _whole_numbers(text: str) -> Vec3:
    try:
        x, y, z = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidParams(f"{text!r} is not x,y,z in whole voxels; write it as 64,64,32") from error
    return x, y, z


class ImportedModel(NewModel):
    """A model was imported."""

    title: str
    task: str
    structure: str
    licence: str
    """Empty if nobody states one."""


def _result_bytes(params: ImportModelParams, inputs: Inputs) -> int:
    return inputs.source_bytes(params.source)


@workflow(
    version=1,
    cost=FREE,
    group="AI analysis",
    priority_class="short",
    result_bytes=_result_bytes,
    example={"source": "root:demo/mitochondria.zip", "target": "mitochondria"},
)
def import_model(params: ImportModelParams, job: Job) -> ImportedModel:
    """Bring a model in from a file, a folder or an address.

    Reads packages of Voxelworks, of the BioImage Model Zoo, and ONNX files alone. Only weights as ONNX are taken: they
    are looked through and tried on one patch before the model is there; weights in other formats, which could run any
    program, are left out unopened. A model that was trained here can be trained further. What a package does not say of
    its model, such as the size of its voxels, is given as parameters; the error names what is missing.
    """
    from voxelworks.ai.package import limits_of, read_foreign, write_package
    from voxelworks.ai.trained import check_trained
    from voxelworks.ai.trial import try_network

    bytes_max = job.settings.model_bytes_max
    job.check_new_model(params.target)
    limits = limits_of(bytes_max)
    location = Path(
        job.unpack(params.source, params.target, limits=limits, fetched_bytes_max=limits.bytes_max)
    )
    if not location.exists():
        raise SourceNotFound(f"there is nothing at {params.source}; give the folder or zip of a model")
    package = read_foreign(_inner_folder(location), bytes_max=bytes_max)
    job.require_inside(params.source, [package.weights])
    if package.left_out:
        job.log(f"weights as {', '.join(package.left_out)} are left out")
    facts = complete_facts(package, params)
    job.log(f"{facts.title}: {facts.task} of {facts.structure}, licence {facts.licence or 'not stated'}")
    extra = _extra_files(package, bytes_max)
    job.require_inside(params.source, extra.values())
    if TRAINED_WEIGHTS in extra:
        check_trained(extra[TRAINED_WEIGHTS], bytes_max=bytes_max)
    stamps = [_stamp(file) for file in (package.weights, *extra.values())]
    folder = job.start_model(params.target, inputs=[facts.model_dump_json(), *stamps])
    made = write_package(folder, facts, package.weights, extra=extra, bytes_max=bytes_max)
    job.check()
    job.log("trying the network on one patch")
    try_network(made, threads=job.slots)
    return ImportedModel(
        model=str(params.target), title=facts.title, task=facts.task, structure=facts.structure,
        licence=facts.licence,
    )  # fmt: skip


def complete_facts(package: ForeignPackage, params: ImportModelParams) -> ModelFacts:
    """Put together what is known of a model: what its package says, and over it what the params say.

    Raises
    ------
    InvalidModel
        Naming the params that are missing, or the facts that contradict each other.
    """
    told = dict(package.facts) or _from_description(package, params)
    known = {**told, **_given(params)}
    if "title" not in known:
        known["title"] = str(params.target).rstrip("/").rpartition("/")[2]
    task = known.get("task")
    channels = package.network.output_channels
    if "outputs" not in known and isinstance(task, str):
        names = TASK_OUTPUTS.get(task, ("affinity",) * _count(known.get("offsets")))
        if names and channels in (None, len(names)):
            known["outputs"] = names
    needed = ["task", "structure", "voxel_size", "outputs", "patch"]
    needed += {"affinities": ["offsets"], "instances": ["distance_scale_nm"]}.get(str(task), [])
    missing = [name for name in needed if not known.get(name)]
    if missing:
        listed = "; ".join(f"{name} ({_LEFT_TO_SAY[name]})" for name in missing)
        raise InvalidModel(f"the package does not say, and so must you: {listed}")
    voxel_size = known["voxel_size"]
    size = voxel_size if isinstance(voxel_size, VoxelSize) else VoxelSize.parse(str(voxel_size))
    known.setdefault("voxel_size_min", VoxelSize(size.x / 2, size.y / 2, size.z / 2))
    known.setdefault("voxel_size_max", VoxelSize(size.x * 2, size.y * 2, size.z * 2))
    known.setdefault("border", (0, 0, 0))
    return ModelFacts.parse(known, what=str(params.source))


def _count(value: object) -> int:
    return len(value) if isinstance(value, list | tuple) else 0


def _given(params: ImportModelParams) -> dict[str, object]:
    """Give the facts among the params, as the package would hold them."""
    plain = (
        "title",
        "task",
        "structure",
        "voxel_size",
        "voxel_size_min",
        "voxel_size_max",
        "licence",
        "modality",
    )
    names = (*plain, "tissue", "limits", "distance_scale_nm")
    given: dict[str, object] = {name: getattr(params, name) for name in names}
    given |= {name: text and _whole_numbers(text) for name in _SIZES if (text := getattr(params, name))}
    if params.outputs is not None:
        given["outputs"] = tuple(params.outputs.split(","))
    if params.offsets is not None:
        given["offsets"] = tuple(_whole_numbers(part) for part in params.offsets.split(";"))
    if params.normalization is not None:
        given["normalization"] = {"method": params.normalization}
    return {name: value for name, value in given.items() if value is not None}


def _from_description(package: ForeignPackage, params: ImportModelParams) -> dict[str, object]:
    """Give the facts that weights and description of a package from elsewhere tell."""
    network, found = package.network, package.description
    facts: dict[str, object] = {"patch": network.patch, "input_channels": network.input_channels}
    if found is not None:
        _refuse_steps(found.before, found.after, is_chosen=params.normalization is not None)
        names = found.outputs if len(found.outputs) == network.output_channels else ()
        facts |= {
            "title": found.title, "description": found.text, "licence": found.licence,
            "citations": found.citations, "outputs": names, "border": found.border,
            "voxel_size": found.voxel_size, "patch": network.patch or found.patch,
            "input_channels": network.input_channels or found.input_channels,
        }  # fmt: skip
        if not found.before:
            facts["normalization"] = {"method": "none"}
    return {name: value for name, value in facts.items() if value}


def _refuse_steps(before: tuple[str, ...], after: tuple[str, ...], *, is_chosen: bool) -> None:
    """Refuse a model that would be used otherwise than it was made for, without anybody having said so."""
    unknown = [step for step in before if step != "zero_mean_unit_variance"]
    if unknown and not is_chosen:
        raise InvalidModel(
            f"images are to be prepared by {', '.join(unknown)}, which is not done here; say as normalization what "
            "shall be done in its place, and expect other results"
        )
    if after:
        raise InvalidModel(
            f"what the network gives is to be changed by {', '.join(after)}, which is not done here; export the "
            "network with these steps in it"
        )


def _inner_folder(location: Path) -> Path:
    """Go down to where the files of a package lie: uploads and zips may have them in a folder of their own."""
    while location.is_dir():
        inside = [path for path in location.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        if len(inside) != 1 or not inside[0].is_dir():
            break
        location = inside[0]
    return location


def _extra_files(package: ForeignPackage, bytes_max: int) -> Mapping[str, Path]:
    """Choose what else is kept: test tensors, what others wrote about their model, and what trainings start from."""
    extra: dict[str, Path] = {}
    if package.facts:
        found = {name: name for name in (*_TEST_TENSORS, *_ORIGINALS.values(), "original-rdf.yaml")}
    elif package.description is not None:
        found = {**_ORIGINALS, package.description.file: "original-rdf.yaml"}
    else:
        found = {}
    for name, kept_as in found.items():
        file = package.folder / name
        largest = bytes_max if name in _TEST_TENSORS else _TEXT_BYTES_MAX
        if file.is_file() and file.stat().st_size <= largest and not _holds_objects(file):
            extra[kept_as] = file
    trained = package.folder / TRAINED_WEIGHTS
    if package.facts and trained.is_file():
        extra[TRAINED_WEIGHTS] = trained
    return extra


def _holds_objects(file: Path) -> bool:
    """Whether an array cannot be read without running what is in it, or is none."""
    if file.suffix != ".npy":
        return False
    from numpy.lib import format as npy

    try:
        with file.open("rb") as stream:
            version = npy.read_magic(stream)
            header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](stream)
    except (ValueError, KeyError, EOFError):
        return True
    return bool(header[2].hasobject)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise StorageFailed(f"{file} cannot be read: {error.strerror or error}") from error
    return status.st_size, status.st_mtime_ns
