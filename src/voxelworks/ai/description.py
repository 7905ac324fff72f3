"""The description of a model package after the BioImage Model Zoo, and the model card that goes with it.

We write format 0.5 and read what the Zoo has (0.4 and 0.5), as far as it says something about running a network. The
description is YAML; aliases in it are refused, as a few bytes of them can stand for millions of values.

References
----------
BioImage Model Zoo, specification of models: https://bioimage-io.github.io/spec-bioimage-io. Ouyang, W. et al. (2022).
BioImage Model Zoo: a community-driven resource for accessible deep learning in bioimage analysis. bioRxiv.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from voxelworks.ai.weights import Network
from voxelworks.errors import InvalidModel, StorageFailed
from voxelworks.geometry import Vec3, VoxelSize
from voxelworks.protocol.messages import Json
from voxelworks.protocol.models import FACTS_BYTES_MAX, ModelFacts, ModelScore

DESCRIPTION_FILE = "rdf.yaml"
CARD_FILE = "README.md"
WEIGHTS_FILE = "weights.onnx"
TEST_INPUT, TEST_OUTPUT = "test-input.npy", "test-output.npy"
FORMAT = "0.5.9"
OWN_CONFIG = "voxelworks"
"""Below `config`: the facts that the description has no fields for."""
_FILES = (DESCRIPTION_FILE, "bioimageio.yaml", "model.yaml")
"""What a description is called."""
_AXES = ("batch", "channel", "z", "y", "x")
_HARMLESS_STEPS = frozenset({"ensure_dtype", "binarize"})
"""Steps of a description that change nothing here: a threshold is applied in any case."""
_LICENCE_NAMES = """
    CC0-1.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0
    CC-BY-ND-4.0 CC-BY-NC-ND-4.0 MIT BSD-2-Clause BSD-3-Clause Apache-2.0 ISC Unlicense ODbL-1.0 PDDL-1.0 ODC-By-1.0
    GPL-2.0-only GPL-3.0-only GPL-3.0-or-later LGPL-3.0-only AGPL-3.0-only MPL-2.0
"""
_LICENCES = frozenset(_LICENCE_NAMES.split())
"""Identifiers of SPDX that weights come with: others stand in the card, as the description takes no free text."""
_DOI = re.compile(r"\b10\.\d{4,9}/[^\s,;]+")
_ADDRESS = re.compile(r"https?://[^\s,;]+")


@dataclass(frozen=True)
class Description:
    """What a description says, as far as it is understood; None where it says nothing."""

    file: str
    title: str | None = None
    text: str = ""
    licence: str = ""
    citations: tuple[str, ...] = ()
    facts: Json | None = None
    """What stands in `config` under `voxelworks`."""
    weights: str | None = None
    """Path of the ONNX file, below the folder."""
    weights_sha256: str = ""
    formats: tuple[str, ...] = ()
    """All formats of weights that it lists."""
    input_channels: int | None = None
    outputs: tuple[str, ...] = ()
    patch: Vec3 | None = None
    border: Vec3 | None = None
    voxel_size: VoxelSize | None = None
    before: tuple[str, ...] = ()
    """Steps before the network, and after it."""
    after: tuple[str, ...] = ()


def find_description(folder: Path) -> str | None:
    """Give the name of the description in the folder of a package; None if there is none."""
    return next((name for name in _FILES if (folder / name).is_file()), None)


def read_description(folder: Path, name: str) -> Description:
    """Read a description.

    Raises
    ------
    InvalidModel
        If it is none of a model, or cannot be understood.
    StorageFailed
    """
    raw = _load_yaml(folder / name)
    if raw.get("type", "model") != "model":
        raise InvalidModel(f"{name} describes a {raw.get('type')}, not a model")
    try:
        return _understood(name, raw)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise InvalidModel(f"{name} is no description of a model that is understood ({error})") from error


def write_description(folder: Path, facts: ModelFacts, network: Network, extra: Collection[str]) -> None:
    """Write description and model card of a package."""
    text = yaml.safe_dump(
        _description_of(facts, network, extra), sort_keys=False, allow_unicode=True, width=110
    )
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(facts), encoding="utf-8")


def model_card(facts: ModelFacts) -> str:
    """Write what is known of a model for people, as Markdown."""
    voxels = f"{_sizes(facts.voxel_size_min)} to {_sizes(facts.voxel_size_max)} nm"
    rows = [
        ("Finds", facts.structure),
        ("Gives", f"{facts.task}: {', '.join(_counted(facts.outputs))}"),
        ("Modality", facts.modality),
        ("Tissue", facts.tissue),
        (
            "Voxels of the network",
            f"{_sizes(facts.voxel_size)} nm (x, y, z); layers are resampled to it"
            + (", but sections stay as they are" if facts.voxel_size.has_sections else ""),
        ),
        ("Layers that it is for", f"voxels of {voxels}"),
        (
            "Patch",
            f"{_numbers(facts.patch)} voxels, of which {_numbers(facts.border)} at each side are not used",
        ),
        ("Intensities", _NORMALIZATIONS[facts.normalization.method]),
        ("Trained further from", facts.started_from or ""),
        ("Weights", f"{facts.weights_bytes:,} bytes, SHA-256 `{facts.weights_sha256}`"),
    ]
    allowed = "" if facts.is_commercial_use_allowed else " Not for commercial use."
    licence = f"{facts.licence or 'Not stated.'} {facts.licence_text}{allowed}".strip()
    parts = [
        f"# {facts.title}", facts.description.strip(), "## Licence", licence, "## What it is",
        "\n".join(f"- **{name}:** {value}" for name, value in rows if value),
        "## Training data", "\n".join(f"- {item}" for item in facts.training_data) or "Not stated.",
        "## Validation", _score_table(facts.scores) or "Nothing was measured.",
        "## Limits", facts.limits.strip() or "Not stated.",
    ]  # fmt: skip
    if facts.citations:
        parts += ["## To cite", "\n".join(f"- {item}" for item in facts.citations)]
    return "\n\n".join(part for part in parts if part) + "\n"


_NORMALIZATIONS = {
    "standardize": "the mean of the layer is subtracted, and divided by its standard deviation, both without zeros",
    "none": "taken as they are",
}


def _description_of(facts: ModelFacts, network: Network, extra: Collection[str]) -> Json:
    stated: Json = {
        "format_version": FORMAT,
        "type": "model",
        "name": _plain_name(facts.title),
        "description": (facts.description.strip() or f"Finds {facts.structure}.")[:1000],
        "documentation": CARD_FILE,
        "tags": list(dict.fromkeys(_tags(facts))),
    }
    if facts.licence in _LICENCES:
        stated["license"] = facts.licence
    if cited := [entry for text in facts.citations if (entry := _cite_entry(text)) is not None]:
        stated["cite"] = cited
    stated["inputs"] = [_input_of(facts, extra)]
    stated["outputs"] = [_output_of(facts, extra)]
    stated["weights"] = {
        "onnx": {
            "source": WEIGHTS_FILE, "sha256": facts.weights_sha256, "opset_version": network.opset,
        }
    }  # fmt: skip
    if others := sorted(set(extra) - {TEST_INPUT, TEST_OUTPUT}):
        stated["attachments"] = [{"source": name} for name in others]
    stated["config"] = {OWN_CONFIG: facts.model_dump(mode="json")}
    return stated


def _input_of(facts: ModelFacts, extra: Collection[str]) -> Json:
    names = (
        ["raw"] if facts.input_channels == 1 else [f"raw{number}" for number in range(facts.input_channels)]
    )
    axes = [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": names}]
    axes += [
        {"type": "space", "id": axis, "size": size, "unit": "nanometer", "scale": scale}
        for axis, size, scale in _space(facts)
    ]
    made: Json = {"id": "input", "axes": axes, "data": {"type": "float32"}}
    if facts.normalization.method == "standardize":
        made["preprocessing"] = [{"id": "zero_mean_unit_variance"}]
    if TEST_INPUT in extra:
        made["test_tensor"] = {"source": TEST_INPUT}
    return made


def _output_of(facts: ModelFacts, extra: Collection[str]) -> Json:
    names = _counted(facts.outputs)
    axes: list[Json] = [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": names}]
    for (axis, _, scale), border in zip(_space(facts), facts.border[::-1], strict=True):
        halo = {"halo": border} if border else {}
        size = {"tensor_id": "input", "axis_id": axis}
        axes.append({"type": "space", "id": axis, "size": size, "unit": "nanometer", "scale": scale, **halo})
    made: Json = {"id": "output", "axes": axes, "data": {"type": "float32"}}
    if TEST_OUTPUT in extra:
        made["test_tensor"] = {"source": TEST_OUTPUT}
    return made


def _space(facts: ModelFacts) -> list[tuple[str, int, float]]:
    return list(zip("zyx", facts.patch[::-1], facts.voxel_size.zyx, strict=True))


def _counted(outputs: Sequence[str]) -> list[str]:
    """Name channels by words that are none twice."""
    words = [re.sub(r"\W+", "_", name).strip("_") or "channel" for name in outputs]
    return [
        f"{word}_{number}" if words.count(word) > 1 or word[0].isdigit() else word
        for number, word in enumerate(words)
    ]


def _plain_name(title: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_ ()-]+", " ", title).strip()
    return re.sub(" +", " ", plain)[:64].strip().ljust(5, "_")


def _tags(facts: ModelFacts) -> list[str]:
    words = [
        facts.structure,
        facts.modality,
        facts.tissue,
        facts.task,
        "segmentation",
        "3d",
        "onnx",
        "voxelworks",
    ]
    return [word.lower() for word in words if word]


def _cite_entry(text: str) -> Json | None:
    """Write a citation as the description takes it: with a DOI or an address."""
    if found := _DOI.search(text):
        return {"text": text, "doi": found.group().rstrip(".)")}
    if found := _ADDRESS.search(text):
        return {"text": text, "url": found.group().rstrip(".)")}
    return None


def _score_table(scores: Sequence[ModelScore]) -> str:
    if not scores:
        return ""
    lines = [
        "| Data | Measure | Value | 95 % interval | Objects | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for score in scores:
        interval = "" if score.low is None or score.high is None else f"{score.low:.3g} to {score.high:.3g}"
        count = "" if score.count is None else f"{score.count:,}"
        known = "trained on other parts of it" if score.trained_on else ""
        lines.append(
            f"| {score.data} | {score.measure} | {score.value:.3g} | {interval} | {count} | {known} |"
        )
    return "\n".join(lines)


def _sizes(size: VoxelSize) -> str:
    return " x ".join(str(size).split(","))


def _numbers(extents: Vec3) -> str:
    return " x ".join(map(str, extents))


# Reading what others wrote


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads plain values only, and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it uses aliases (*name); write the values out")
        return super().compose_node(parent, index)


def _load_yaml(path: Path) -> Json:
    try:
        with path.open("rb") as stream:
            content = stream.read(FACTS_BYTES_MAX + 1)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > FACTS_BYTES_MAX:
        raise InvalidModel(
            f"{path.name} is larger than {FACTS_BYTES_MAX // 2**20} MiB: that is no description"
        )
    try:
        raw = yaml.load(content, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).replace("\n", " ")[:300]
        raise InvalidModel(f"{path.name} is no YAML that can be read: {reason}") from error
    if not isinstance(raw, dict):
        raise InvalidModel(f"{path.name} is no description of a model: it names no values")
    return raw


def _understood(name: str, raw: Json) -> Description:
    weights = _mapping(raw.get("weights"))
    onnx = _mapping(weights.get("onnx"))
    if onnx.get("external_data"):
        raise InvalidModel(f"{name} keeps the weights of the ONNX file in another one; save it as one file")
    source = onnx.get("source")
    inputs, outputs = _only(raw, "inputs", name), _only(raw, "outputs", name)
    facts = _mapping(raw.get("config")).get(OWN_CONFIG)
    return Description(
        file=name, title=str(raw["name"])[:200] if raw.get("name") else None,
        text=str(raw.get("description") or ""), licence=str(raw.get("license") or ""),
        citations=tuple(_cited(entry) for entry in raw.get("cite") or ()),
        facts=facts if isinstance(facts, dict) else None,
        weights=None if source is None else _inner_path(str(source), name),
        weights_sha256=str(onnx.get("sha256") or ""), formats=tuple(map(str, weights)),
        input_channels=_channels(inputs), outputs=_channel_names(outputs), patch=_patch(inputs),
        border=_border(outputs), voxel_size=_voxel_size(inputs), before=_steps(inputs, "preprocessing"),
        after=_steps(outputs, "postprocessing"),
    )  # fmt: skip


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _only(raw: Json, what: str, name: str) -> Mapping[str, Any]:
    found = raw.get(what) or []
    if len(found) > 1:
        raise InvalidModel(f"{name} describes {len(found)} {what}; a network here has one")
    tensor = _mapping(found[0]) if found else {}
    axes = _axis_names(tensor)
    if axes and axes != _AXES:
        raise InvalidModel(
            f"{name} gives the {what} the axes {', '.join(axes)}; a network here has {', '.join(_AXES)}"
        )
    return tensor


def _axis_names(tensor: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the axes of a tensor, of 0.4 (`bczyx`) or 0.5 (a list)."""
    axes = tensor.get("axes") or ()
    if isinstance(axes, str):
        return tuple({"b": "batch", "c": "channel"}.get(letter, letter) for letter in axes)
    return tuple(
        str(axis["type"] if axis["type"] in _AXES else axis.get("id", axis["type"])) for axis in axes
    )


def _axes(tensor: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    axes = tensor.get("axes") or ()
    return () if isinstance(axes, str) else axes


def _channels(tensor: Mapping[str, Any]) -> int | None:
    names = _channel_names(tensor)
    if names:
        return len(names)
    shape = _old_shape(tensor)
    return shape[1] if shape else None


def _channel_names(tensor: Mapping[str, Any]) -> tuple[str, ...]:
    for axis in _axes(tensor):
        if axis["type"] == "channel":
            return tuple(map(str, axis.get("channel_names") or ()))
    return ()


def _old_shape(tensor: Mapping[str, Any]) -> Sequence[int]:
    """Give the smallest shape that a description of 0.4 states."""
    shape = tensor.get("shape") or ()
    if isinstance(shape, dict):
        shape = shape.get("min") or ()
    return [int(extent) for extent in shape]


def _patch(tensor: Mapping[str, Any]) -> Vec3 | None:
    sizes: list[int] = []
    for axis in _axes(tensor)[2:]:
        size = axis.get("size")
        size = size.get("min") if isinstance(size, dict) else size
        sizes += [] if size is None else [int(size)]
    sizes = sizes or [int(extent) for extent in _old_shape(tensor)[2:]]
    return (sizes[2], sizes[1], sizes[0]) if len(sizes) == 3 else None


def _border(tensor: Mapping[str, Any]) -> Vec3 | None:
    axes = _axes(tensor)[2:]
    halo = [int(axis.get("halo") or 0) for axis in axes] or [
        int(extent) for extent in tensor.get("halo") or ()
    ][2:]
    return (halo[2], halo[1], halo[0]) if len(halo) == 3 and any(halo) else None


def _voxel_size(tensor: Mapping[str, Any]) -> VoxelSize | None:
    axes = _axes(tensor)[2:]
    if len(axes) != 3 or not all(axis.get("unit") and axis.get("scale") for axis in axes):
        return None
    scales = [_nanometres(float(axis["scale"]), str(axis["unit"])) for axis in axes]
    return VoxelSize(scales[2], scales[1], scales[0])


def _nanometres(length: float, unit: str) -> float:
    return VoxelSize.in_unit(length, length, length, unit).x


def _steps(tensor: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """Name the steps that matter, of 0.5 (`id`) or 0.4 (`name`)."""
    names = [str(step.get("id") or step.get("name")) for step in tensor.get(what) or ()]
    return tuple(name for name in names if name not in _HARMLESS_STEPS)


def _cited(entry: Mapping[str, Any]) -> str:
    parts = (entry.get("text"), entry.get("doi"), entry.get("url"))
    return " ".join(dict.fromkeys(str(part) for part in parts if part))


def _inner_path(source: str, name: str) -> str:
    """Give the path of a file of the package; refuse what leads out of it."""
    path = PurePosixPath(source)
    if "://" in source:
        raise InvalidModel(
            f"{name} names weights at {source}; download the whole package, with its weights, and give that"
        )
    if path.is_absolute() or ".." in path.parts or "\\" in source or "\0" in source:
        raise InvalidModel(f"{name} names weights at {source!r}, outside of the package")
    return path.as_posix()
