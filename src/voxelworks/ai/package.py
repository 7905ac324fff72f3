"""Model packages: a folder with the description of a model, its weights as ONNX, and its card.

::

    rdf.yaml           description after the BioImage Model Zoo, our facts in it under `config: {voxelworks: ...}`
    weights.onnx
    README.md          model card, made of the facts
    voxelworks.json    the facts again, for programs that read no YAML
    test-input.npy, test-output.npy    what the network gives for an input, if whoever made it says so
    trained.safetensors    of a model that was trained here: what trainings that start from it begin with

A package in a zip is unpacked first, within limits. Equal facts and weights give equal files.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from voxelworks import archives
from voxelworks.ai.description import (
    CARD_FILE,
    DESCRIPTION_FILE,
    TEST_INPUT,
    TEST_OUTPUT,
    WEIGHTS_FILE,
    Description,
    find_description,
    read_description,
    write_description,
)
from voxelworks.ai.weights import WEIGHTS_BYTES_MAX, Network, check_weights, read_network
from voxelworks.archives import ArchiveLimits
from voxelworks.errors import InvalidModel, ModelNotFound, StorageFailed
from voxelworks.protocol.models import MODEL_FILE, ModelFacts, read_facts, read_raw_facts

FILES_MAX = 1000
_OWN_FILES = frozenset({DESCRIPTION_FILE, WEIGHTS_FILE, CARD_FILE, MODEL_FILE})
_SUFFIX = ".onnx"


@dataclass(frozen=True)
class ModelPackage:
    """A package whose weights were looked through."""

    folder: Path
    facts: ModelFacts
    weights: Path


@dataclass(frozen=True)
class ForeignPackage:
    """A package as it came, from us or from elsewhere."""

    folder: Path
    weights: Path
    network: Network
    description: Description | None
    """None of weights alone."""
    facts: Mapping[str, object]
    """Our facts, as they stand in it; empty if there are none."""
    left_out: tuple[str, ...]
    """Weights in other formats: never opened."""


def write_package(
    folder: Path,
    facts: ModelFacts,
    weights: Path | bytes,
    *,
    extra: Mapping[str, Path | bytes] | None = None,
    bytes_max: int = WEIGHTS_BYTES_MAX,
) -> ModelPackage:
    """Write a package; what of it is there already is replaced.

    Parameters
    ----------
    folder
        Made if it is missing.
    facts
        Size and checksum of the weights are filled in.
    weights
        ONNX, as a file or its content.
    extra
        Further files by name: `test-input.npy` and `test-output.npy` are named as test tensors in the description,
        others as attachments.
    bytes_max
        Largest weights that are taken.

    Raises
    ------
    InvalidModel
        If the weights are not what `check_weights` allows, or a further file is named like one of the package.
    StorageFailed
        If weights or files cannot be read.
    """
    extra = extra or {}
    for name in extra:
        if name in _OWN_FILES or PurePosixPath(name).name != name or name.startswith("."):
            raise InvalidModel(
                f"{name!r} cannot be the name of a further file of a model; choose another one"
            )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / WEIGHTS_FILE
    _put(target, weights)
    network = check_weights(target, facts, bytes_max=bytes_max)
    for name, content in extra.items():
        _put(folder / name, content)
    whole = facts.model_copy(
        update={"weights_sha256": _sha256(target), "weights_bytes": target.stat().st_size}
    )
    write_description(folder, whole, network, extra)
    (folder / MODEL_FILE).write_text(whole.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return ModelPackage(folder, whole, target)


def read_package(
    location: str | Path, *, unpacked: Path | None = None, bytes_max: int = WEIGHTS_BYTES_MAX
) -> ModelPackage:
    """Open a package, and look its weights through.

    Parameters
    ----------
    location
        Its folder, or a zip of it.
    unpacked
        Folder for what is in zips, each under its checksum; by default in the folder of the user for what may be
        deleted at any time (setting `cache_dir`).
    bytes_max
        Largest weights that are taken.

    Raises
    ------
    ModelNotFound
        If nothing is there.
    InvalidModel
        If it is no package whose facts are complete, or its weights are not what `check_weights` allows.
    InvalidArchive, StorageFailed
    """
    folder = _folder_of(location, unpacked, bytes_max)
    if (folder / MODEL_FILE).is_file():
        facts, weights = read_facts(folder), folder / WEIGHTS_FILE
    else:
        found = read_foreign(folder, bytes_max=bytes_max)
        if not found.facts:
            raise InvalidModel(
                f"{location} says nothing of how its network is used (no {MODEL_FILE}, nothing of `voxelworks` in its "
                "description); import it first: voxelworks run import_model"
            )
        facts, weights = ModelFacts.parse(found.facts, what=str(location)), found.weights
    if not weights.is_file():
        raise InvalidModel(f"{location} holds no {weights.name}; copy the model again")
    check_weights(weights, facts, bytes_max=bytes_max)
    _require_sum(weights, facts.weights_sha256, "the facts of the model")
    return ModelPackage(folder, facts, weights)


def read_foreign(location: Path, *, bytes_max: int = WEIGHTS_BYTES_MAX) -> ForeignPackage:
    """Look into a package from anywhere, with or without our facts.

    Parameters
    ----------
    location
        Its folder, or one that holds an ONNX file alone, or such a file.
    bytes_max
        Largest weights that are taken.

    Raises
    ------
    InvalidModel
        If it holds no weights as ONNX, naming the formats found, ones that `read_network` refuses, or others than those
        whose checksum it states.
    StorageFailed
    """
    if not location.is_dir():
        network = read_network(location, bytes_max=bytes_max)
        return ForeignPackage(location.parent, location, network, None, {}, ())
    folder = location
    name = find_description(folder)
    description = None if name is None else read_description(folder, name)
    weights = _weights_of(folder, description)
    _require_inside(folder, weights)
    raw: Mapping[str, object] = (description.facts if description is not None else None) or {}
    if (folder / MODEL_FILE).is_file():
        raw = read_raw_facts(folder)
    network = read_network(weights, bytes_max=bytes_max)
    _require_sum(weights, str(raw.get("weights_sha256") or ""), "the facts of the model")
    if description is not None:
        _require_sum(weights, description.weights_sha256, description.file)
    formats = () if description is None else tuple(item for item in description.formats if item != "onnx")
    return ForeignPackage(folder, weights, network, description, raw, formats)


def limits_of(bytes_max: int) -> ArchiveLimits:
    """Say what a zip of a model may hold: weights in other formats and pictures lie beside the ONNX file."""
    return ArchiveLimits(entries_max=FILES_MAX, bytes_max=4 * bytes_max)


def _weights_of(folder: Path, description: Description | None) -> Path:
    if description is not None and description.weights is not None:
        found = folder / description.weights
        if not found.is_file():
            raise InvalidModel(
                f"{description.file} names weights in {description.weights!r}, which is not there"
            )
        return found
    if description is not None and description.formats:
        raise InvalidModel(
            f"the model has weights as {', '.join(description.formats)} only, and ONNX is needed; many models of the "
            "BioImage Model Zoo come with it, others can be converted with bioimageio.core"
        )
    there = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found_onnx = [path for path in there if path.name.lower().endswith(_SUFFIX)]
    if len(found_onnx) == 1:
        return found_onnx[0]
    if found_onnx:
        names = ", ".join(path.name for path in found_onnx[:5])
        raise InvalidModel(f"there are {len(found_onnx)} ONNX files ({names}); give a folder with one")
    names = ", ".join(path.name for path in there[:5]) or "nothing"
    raise InvalidModel(
        f"this is no model: there is neither {DESCRIPTION_FILE} nor an ONNX file, but {names}; give the folder or zip "
        "of a model package"
    )


def _require_inside(folder: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidModel(f"{path.name} is a link that leads out of the model; put the file itself there")


def _require_sum(weights: Path, stated: str, where: str) -> None:
    """Refuse weights that have another SHA-256 than is stated, if one is."""
    if not stated:
        return
    found = _sha256(weights)
    if found != stated.lower():
        raise InvalidModel(
            f"{weights.name} is not the file whose checksum stands in {where}: that begins with {stated[:12]}, and its "
            f"own with {found[:12]}; copy the model again, or correct the checksum if somebody changed the weights"
        )


def _folder_of(location: str | Path, unpacked: Path | None, bytes_max: int) -> Path:
    path = Path(location)
    try:
        if path.is_dir():
            return path
        if not path.exists():
            raise ModelNotFound(f"there is no model at {location}; give its folder or zip")
        if archives.kind_of(path) is None:
            raise InvalidModel(f"{location} is neither the folder of a model nor a zip of one")
        home = unpacked if unpacked is not None else _cache()
        found = archives.unpack(path, home / _sha256(path)[:32], limits_of(bytes_max))
    except OSError as error:
        raise StorageFailed(f"{location} cannot be read: {error.strerror or error}") from error
    return found if found.is_dir() else found.parent


def _cache() -> Path:
    from voxelworks.settings import Settings  # slow import, which the processes of blocks do without

    return Settings().cache_dir / "models"


def _put(target: Path, content: Path | bytes) -> None:
    try:
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif content.resolve() != target.resolve():
            shutil.copyfile(content, target)
    except OSError as error:
        raise StorageFailed(f"{target} cannot be written: {error.strerror or error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


__all__ = [
    "FILES_MAX",
    "TEST_INPUT",
    "TEST_OUTPUT",
    "ForeignPackage",
    "ModelPackage",
    "check_weights",
    "limits_of",
    "read_foreign",
    "read_package",
    "write_package",
]
