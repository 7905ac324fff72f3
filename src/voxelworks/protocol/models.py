"""What is known of a model: the facts that its package carries, and that servers, forms and workflows read.

A package is a folder after the BioImage Model Zoo description (`rdf.yaml`, weights as ONNX). What that description has
no fields for stands in its `config` under `voxelworks`, as a `ModelFacts`; the same is in the package as JSON, in
`MODEL_FILE`, for programs that read no YAML.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from voxelworks.errors import InvalidModel, StorageFailed
from voxelworks.geometry import Vec3, VoxelSize
from voxelworks.protocol.modality import are_apart

MODEL_FILE = "voxelworks.json"
"""In the folder of a package, beside `rdf.yaml`."""
TRAINED_WEIGHTS = "trained.safetensors"
"""In a package of a model that was trained here: its weights as they were trained, for trainings that start from it."""
FACTS_BYTES_MAX = 2**20

ModelTask = Literal["affinities", "instances", "semantic"]
"""What a network gives for each voxel: whether it belongs together with others at fixed offsets, from which neurons are
put together; whether it is inside of an object and how far from its surface, from which instances are; or only whether
it is inside."""
TASK_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "semantic": ("foreground",), "instances": ("foreground", "distance"),
}  # fmt: skip
"""Names of the channels that segments are made of. For affinities it is their offsets that count."""
NormalizationMethod = Literal["standardize", "none"]
_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non[\W_]*commercial", re.IGNORECASE)
"""In the name of a licence: the part `NC` of those of Creative Commons, or words."""


class _Facts(BaseModel):
    # JSON has no infinity: what is written as one could not be read again.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Normalization(_Facts):
    """How intensities are changed before they are given to the network, in the same way for all voxels of a job."""

    method: NormalizationMethod = "standardize"
    """`standardize`: subtract the mean of the layer and divide by its standard deviation, both without voxels of 0."""


class ModelScore(_Facts):
    """One measured score."""

    data: str
    """On which data."""
    measure: str
    """Such as `IoU`."""
    value: float
    low: float | None = None
    """Lower end of the interval of 95 % confidence."""
    high: float | None = None
    count: int | None = None
    """Of what was counted, such as objects."""
    trained_on: bool = False
    """Whether the network was trained on other parts of the same data set."""


class PostProcessing(_Facts):
    """How predictions become segments. Lengths in nm, so that they mean the same for all voxel sizes."""

    threshold: float = Field(0.5, ge=0, le=1)
    """Voxels with a smaller probability are background."""
    seed_distance_nm: float | None = Field(None, ge=0)
    """Instances: how far inside of an object its middle lies at least."""
    min_depth_nm: float = Field(0.0, ge=0)
    """Instances: two that touch are two if each is thicker than their neck by this."""
    size_min_nm3: float = Field(0.0, ge=0)
    """Smaller segments are dropped, or joined to their neighbours where every voxel belongs to one."""
    size_max_nm3: float | None = Field(None, gt=0)
    """Larger instances are dropped."""
    agglomeration_threshold: float = Field(0.5, ge=0, le=1)
    """Neurons: fragments whose mean affinity is at least this are joined."""


class ModelFacts(_Facts):
    """What is known of a model."""

    title: str = Field(min_length=1, max_length=200)
    description: str = ""
    task: ModelTask
    structure: str = Field(min_length=1, max_length=100)
    """What it finds, such as `mitochondria`."""
    modality: str = ""
    """Kind of microscopy that it was trained for, such as `FIB-SEM`."""
    tissue: str = ""
    voxel_size: VoxelSize
    """That of the images that the network sees, in nm: layers are resampled to it."""
    voxel_size_min: VoxelSize
    """Smallest voxels of layers that it is for."""
    voxel_size_max: VoxelSize
    input_channels: int = Field(1, ge=1, le=64)
    outputs: tuple[str, ...] = Field(min_length=1)
    """What each channel is: `foreground` and `distance`, or `affinity` for each offset."""
    offsets: tuple[Vec3, ...] = ()
    """Affinities: x,y,z in voxels of `voxel_size`, one for each channel."""
    distance_scale_nm: float | None = Field(None, gt=0)
    """Instances: the distance from the surface, in nm, for which the channel `distance` is 1."""
    patch: Vec3
    """x,y,z: voxels that are given to the network at once."""
    border: Vec3
    """x,y,z: voxels at each side of a patch whose results are not used."""
    step: Vec3 = (1, 1, 1)
    """x,y,z: what each side of a patch is a multiple of."""
    memory_per_voxel: int = Field(400, ge=1)
    """Bytes that the network takes for each voxel of a patch."""
    normalization: Normalization = Normalization()
    post_processing: PostProcessing = PostProcessing()
    training_data: tuple[str, ...] = ()
    """Each data set, with its licence."""
    licence: str = ""
    """SPDX identifier, or a name."""
    licence_text: str = ""
    """What it allows, in one sentence."""
    is_commercial_use_allowed: bool = Field(True, validate_default=True)
    """Never more than the licence says."""
    citations: tuple[str, ...] = ()
    scores: tuple[ModelScore, ...] = ()
    limits: str = ""
    """What it is not good for."""
    started_from: str | None = None
    """The model that training began with."""
    weights_sha256: str = ""
    weights_bytes: int = 0

    @field_validator("is_commercial_use_allowed")
    @classmethod
    def _follows_the_licence(cls, value: bool, info: ValidationInfo) -> bool:
        return value and allows_commercial_use(info.data.get("licence", ""))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.task == "affinities" and len(self.offsets) != len(self.outputs):
            raise InvalidModel(
                f"the model has {len(self.outputs)} outputs but {len(self.offsets)} offsets; each affinity has one"
            )
        nearest = {tuple(map(abs, offset)) for offset in self.offsets if sum(map(abs, offset)) == 1}
        if self.task == "affinities" and len(nearest) < 3:
            raise InvalidModel(
                f"the model has the offsets {list(self.offsets)}; neurons need those to the next voxel along x, y and z"
            )
        needed = TASK_OUTPUTS.get(self.task, ())
        if not set(needed) <= set(self.outputs):
            raise InvalidModel(
                f"a model for the task {self.task} gives {' and '.join(needed)}, and this one "
                f"{', '.join(self.outputs)}; say in outputs which channel is which"
            )
        if self.task == "instances" and self.distance_scale_nm is None:
            raise InvalidModel("a model of instances says how long the distance 1 is, in distance_scale_nm")
        for length, border in zip(self.patch, self.border, strict=True):
            if border < 0 or 2 * border >= length:
                raise InvalidModel(
                    f"a patch of {self.patch} with a border of {self.border} on each side leaves no voxels; "
                    "the border is smaller than half the patch"
                )
        if any(step < 1 or length % step for length, step in zip(self.patch, self.step, strict=True)):
            raise InvalidModel(
                f"the model has a patch of {self.patch} and a step of {self.step}; each step is at least 1, and each "
                "side of the patch a multiple of it"
            )
        if self.unfit(self.voxel_size) is not None:
            raise InvalidModel(
                f"the network works on voxels of {self.voxel_size} nm, and is for {self.voxel_size_min} to "
                f"{self.voxel_size_max} nm; voxel_size lies between voxel_size_min and voxel_size_max"
            )
        return self

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, what: str) -> Self:
        """Read facts that anybody may have written; `InvalidModel` names each that is wrong, of the model `what`."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip()[:300]
                for item in error.errors(include_url=False, include_input=False)
            ]
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise InvalidModel(f"the facts of {what} are wrong: {'; '.join(problems[:5])}{more}") from error

    def with_outputs(self, channels: Sequence[int]) -> Self:
        """Tell of some of the channels alone."""
        return self.model_copy(
            update={
                "outputs": tuple(self.outputs[channel] for channel in channels),
                "offsets": tuple(self.offsets[channel] for channel in channels) if self.offsets else (),
            }
        )

    def unfit(self, voxel_size: VoxelSize, modality: str | None = None) -> str | None:
        """Say why a layer is outside of what the model is for; None if it is not, as far as it states what it is.

        Parameters
        ----------
        voxel_size : VoxelSize
            Of the mag that the network is given.
        modality : str, optional
            Kind of microscopy of the layer.
        """
        why: list[str] = []
        pairs = zip(voxel_size.xyz, self.voxel_size_min.xyz, self.voxel_size_max.xyz, strict=True)
        if not all(_at_most(low, size) and _at_most(size, high) for size, low, high in pairs):
            why.append(
                f"the layer has voxels of {voxel_size} nm, and the model is for {self.voxel_size_min} to "
                f"{self.voxel_size_max} nm"
            )
        if modality is not None and are_apart(modality, self.modality):
            why.append(f"the layer is from {modality}, and the model is for {self.modality}")
        return f"{'; '.join(why)}: expect worse results" if why else None


def allows_commercial_use(licence: str) -> bool:
    """Whether a licence, by its identifier or name, is not one for non-commercial use alone."""
    return _NON_COMMERCIAL.search(licence) is None


def _at_most(low: float, high: float) -> bool:
    """Compare sizes that are rounded in many ways."""
    return low <= high or math.isclose(low, high, rel_tol=0.01)


def read_facts(folder: Path) -> ModelFacts:
    """Read the facts of a package.

    Raises
    ------
    InvalidModel
        If the file is none that can be understood.
    StorageFailed
        If it cannot be read.
    """
    return ModelFacts.parse(read_raw_facts(folder), what=folder.name)


def read_raw_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of a package as they stand there; errors as of `read_facts`."""
    path = folder / MODEL_FILE
    try:
        with path.open("rb") as stream:
            content = stream.read(FACTS_BYTES_MAX + 1)
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        raw = json.loads(content) if len(content) <= FACTS_BYTES_MAX else None
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path} is no JSON; copy the model again") from error
    if not isinstance(raw, dict):
        raise InvalidModel(f"{path} holds no facts of a model; copy the model again")
    return raw
