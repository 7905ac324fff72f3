"""References in params: what a workflow works on, without saying where it lies.

The same params run on a laptop and on a server: *locally* a reference is a path or an address, on a *server* it is the
name of a dataset or a model, ``root:NAME/relative`` below an import root, ``upload:ID``, or the id of an annotation.
Only a `Resolver` knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from voxelworks.errors import InvalidParams, WrongCategory
from voxelworks.protocol.installed_models import find_installed
from voxelworks.protocol.places import (
    ARTIFACT,
    DATASET_NAME,
    PREVIEW_FOLDER,
    PREVIEWS_OF,
    STREAM_OF,
    why_no_file_name,
)


class Ref(str):
    """A text that names data."""

    __slots__ = ()
    label = "Reference"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: str) -> Ref:
            if not value.strip():
                raise InvalidParams(f"a {cls.label.lower()} is missing; give its name or place")
            return cls(value.strip())

        return core_schema.no_info_after_validator_function(
            read, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "title": cls.label, "format": cls.__name__}


class DatasetRef(Ref):
    """An existing dataset: its name on a server, its folder or address locally."""

    __slots__ = ()
    label = "Dataset"


class NewDatasetRef(Ref):
    """A dataset that the job makes: its name on a server, its folder locally. It must not exist yet."""

    __slots__ = ()
    label = "New dataset"


class NewFileRef(Ref):
    """A file that the job leaves for download: its name on a server, its path locally. It must not exist yet."""

    __slots__ = ()
    label = "File"


class SourceRef(Ref):
    """`root:NAME/relative`, `upload:ID` or an allowed address on a server; a path or address locally."""

    __slots__ = ()
    label = "Source"


class AnnotationRef(Ref):
    """An annotation: its id on a server, its file (NML, or zip with volume data) locally."""

    __slots__ = ()
    label = "Annotation"


class ModelRef(Ref):
    """A model: its name on a server, `NAME@2` for an earlier version; locally its folder, zip or installed name."""

    __slots__ = ()
    label = "Model"


class NewModelRef(Ref):
    """A model that the job makes: its name on a server, its folder locally.

    On a server it becomes a new version if there is a model of this name; locally it must not exist yet.
    """

    __slots__ = ()
    label = "New model"


class LayerRef(BaseModel):
    """A layer of a dataset. As text: `DATASET/LAYER`."""

    category: ClassVar[Literal["color", "segmentation"] | None] = None
    """The only kind of layer that will do, if not any: forms offer no others, and servers refuse them at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dataset: DatasetRef
    """Dataset to work on."""
    layer: str
    """Layer of the dataset."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        dataset, separator, layer = value.rstrip("/").rpartition("/")
        if not separator:
            raise InvalidParams(f"{value!r} names no layer; write DATASET/LAYER")
        return {"dataset": dataset, "layer": layer}

    @field_validator("layer")
    @classmethod
    def _is_layer_name(cls, value: str) -> str:
        return check_name("layer", value)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.layer}"

    def require_category(self, found: str) -> None:
        """Refuse a layer of the wrong category.

        Raises
        ------
        WrongCategory
        """
        if self.category is not None and found != self.category:
            raise WrongCategory(
                f"layer {self.layer!r} is a {found} layer; name a {self.category} layer of {self.dataset}"
            )


class ImageRef(LayerRef):
    """An image layer of a dataset. As text: `DATASET/LAYER`."""

    category = "color"


class SegmentationRef(LayerRef):
    """A segmentation layer of a dataset. As text: `DATASET/LAYER`."""

    category = "segmentation"


def check_name(what: str, name: str) -> str:
    """Give back a dataset or layer name that is safe as a folder name; `InvalidParams` otherwise."""
    if not DATASET_NAME.fullmatch(name) or name.endswith(".lock"):
        raise InvalidParams(
            f"{name!r} is not a {what} name; use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    return name


def check_file_name(name: str) -> str:
    """Give back a name that a file may have on every system; `InvalidParams` otherwise."""
    reason = why_no_file_name(name)
    if reason is not None:
        raise InvalidParams(f"{name!r} cannot be the name of a file: {reason}")
    return name


def references(params: BaseModel) -> Iterator[Ref]:
    """Yield every reference in the params, nested ones too, in order of declaration."""
    for name in type(params).model_fields:
        yield from _references_in(getattr(params, name))


def _references_in(value: object) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, BaseModel):
        yield from references(value)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _references_in(item)


class Resolver(Protocol):
    """Turns references into paths and addresses, and those of results into places."""

    @property
    def is_trusting(self) -> bool:
        """Whether metadata of a dataset may lead out of its folder: yes for a user's own files, no on a server."""

    def locate(self, ref: Ref) -> str:
        """Give the path or address that a reference stands for here."""

    def place(self, ref: Ref) -> str:
        """Give the place that is written into the result: it means the same on every machine of the server."""

    def previews(self, ref: DatasetRef) -> tuple[str, str]:
        """Give the place, and the path here, of the folder for the pictures of a dataset."""

    def artifact(self, name: str) -> tuple[str, str]:
        """Give the place, and the path here, of the file that the job leaves."""

    def stream(self, ref: AnnotationRef, /) -> tuple[str, str | None] | None:
        """Give the address where a WEBKNOSSOS gives the voxels of an annotation, and a token; None if it does not."""


class LocalResolver:
    """On the command line and in Python a reference is a path or an address, or the name of an installed model.

    Parameters
    ----------
    model_roots
        Folders of installed models.
    """

    is_trusting = True

    def __init__(self, model_roots: Sequence[Path] = ()) -> None:
        self._model_roots = model_roots

    def locate(self, ref: Ref) -> str:
        is_name = isinstance(ref, ModelRef) and DATASET_NAME.fullmatch(ref) and not Path(ref).exists()
        return str(find_installed(ref, self._model_roots)) if is_name else str(ref)

    def place(self, ref: Ref) -> str:
        return str(ref)

    def previews(self, ref: DatasetRef) -> tuple[str, str]:
        folder = f"{ref.rstrip('/')}/{PREVIEW_FOLDER}"
        return folder, folder

    def artifact(self, name: str) -> tuple[str, str]:
        return name, name

    def stream(self, _ref: AnnotationRef) -> tuple[str, str | None] | None:
        return None


class PlacesResolver:
    """In a server's job a reference stands for a place that the server looked up when it gave the job away."""

    is_trusting = False

    def __init__(
        self,
        places: Mapping[str, str],
        locate: Callable[[str], str],
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._places = places
        self._locate = locate
        self._secrets = secrets

    def place(self, ref: Ref) -> str:
        return self._places[str(ref)]

    def previews(self, ref: DatasetRef) -> tuple[str, str]:
        place = self._places[PREVIEWS_OF + ref]
        return place, self._locate(place)

    def artifact(self, _name: str) -> tuple[str, str]:
        place = self._places[ARTIFACT]
        return place, self._locate(place)

    def stream(self, ref: AnnotationRef) -> tuple[str, str | None] | None:
        place = self._places.get(STREAM_OF + ref)
        return None if place is None else (self._locate(place), self._secrets.get(str(ref)))

    def locate(self, ref: Ref) -> str:
        return self._locate(self._places[str(ref)])


__all__ = [
    "AnnotationRef",
    "DatasetRef",
    "ImageRef",
    "LayerRef",
    "LocalResolver",
    "ModelRef",
    "NewDatasetRef",
    "NewFileRef",
    "NewModelRef",
    "PlacesResolver",
    "Ref",
    "Resolver",
    "SourceRef",
    "check_file_name",
    "check_name",
    "references",
]
