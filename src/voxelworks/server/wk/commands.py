"""The commands of WEBKNOSSOS' job protocol: which there are, how clients start them, and which cost credits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_snake

from voxelworks.errors import InvalidInput
from voxelworks.protocol.messages import Json

PAID = frozenset({
    "infer_neurons", "infer_nuclei", "infer_mitochondria", "infer_instances", "infer_with_model", "align_sections",
    "align", "train_neuron_model", "train_instance_model",
})  # fmt: skip
"""Their names are those of their prices."""
FREE = frozenset({
    "convert_to_wkw", "compute_mesh_file", "compute_segment_index_file", "export_tiff", "find_largest_segment_id",
    "materialize_volume_annotation", "render_animation",
})  # fmt: skip
UNLINKED = frozenset({"find_largest_segment_id", "compute_segment_index_file"})
"""Commands whose result has no page, although it belongs to a dataset."""


@dataclass(frozen=True)
class RunRoute:
    """How clients start a command: `POST /jobs/run/NAME/DATASET_ID`, with arguments in the query or as JSON."""

    command: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None
    """Arguments whose name in the job is not the same in snake case."""

    def arguments(self, given: Mapping[str, Any]) -> Json:
        """Give the arguments as the job names them; what the route does not know is left out, as WEBKNOSSOS does.

        Raises
        ------
        InvalidInput
            If one is missing.
        """
        missing = [name for name in self.required if given.get(name) in (None, "")]
        if missing:
            raise InvalidInput(
                f"{', '.join(missing)} is missing; {self.command} needs {', '.join(self.required)}"
            )
        known = {name: given[name] for name in (*self.required, *self.optional) if name in given}
        return {(self.renamed or {}).get(name, to_snake(name)): value for name, value in known.items()}


RUN_ROUTES: Mapping[str, RunRoute] = {
    "convertToWkw": RunRoute("convert_to_wkw", ("scale",), ("unit",)),
    "computeMeshFile": RunRoute("compute_mesh_file", ("layerName", "mag"), ("agglomerateView",)),
    "computeSegmentIndexFile": RunRoute(
        "compute_segment_index_file", ("layerName",), renamed={"layerName": "segmentation_layer_name"}
    ),
    "exportTiff": RunRoute(
        "export_tiff",
        ("bbox", "asOmeTiff"),
        ("additionalCoordinates", "layerName", "mag", "annotationLayerName", "annotationId"),
    ),
    "inferMitochondria": RunRoute("infer_mitochondria", ("layerName", "bbox", "newDatasetName")),
    "inferNuclei": RunRoute("infer_nuclei", ("layerName", "newDatasetName"), ("invertColorLayer",)),
    "inferNeurons": RunRoute(
        "infer_neurons",
        ("layerName", "bbox", "newDatasetName"),
        (
            "invertColorLayer", "doSplitMergerEvaluation", "annotationId", "evalUseSparseTracing",
            "evalMaxEdgeLength", "evalSparseTubeThresholdNm", "evalMinMergerPathLengthNm",
        ),
    ),
    "alignSections": RunRoute(
        "align_sections", ("layerName", "newDatasetName"), ("annotationId", "customConfiguration")
    ),
    "materializeVolumeAnnotation": RunRoute(
        "materialize_volume_annotation",
        ("fallbackLayerName", "annotationId", "annotationType", "newDatasetName"),
        (
            "outputSegmentationLayerName", "mergeSegments", "volumeLayerName", "includesEditableMapping",
            "boundingBox",
        ),
        {"includesEditableMapping": "use_zarr_streaming"},
    ),
    "findLargestSegmentId": RunRoute("find_largest_segment_id", ("layerName",)),
    "renderAnimation": RunRoute(
        "render_animation",
        (
            "layerName", "boundingBox", "includeWatermark", "meshes", "movieResolution", "movieDuration",
            "cameraPosition", "magForTextures",
        ),
        ("annotationId", "includeSkeletons", "hideImageData", "saveBlenderFile"),
    ),
}  # fmt: skip


_INFERENCE = {"colorLayerName": "layer_name", "boundingBox": "bbox", "aiModelId": "model_id"}
AI_ROUTES: Mapping[str, RunRoute] = {
    "inferences/runNeuronModelInference": RunRoute(
        "infer_neurons",
        ("datasetId", "colorLayerName", "boundingBox", "newDatasetName"),
        ("aiModelId", "invertColorLayer", "doSplitMergerEvaluation"),
        _INFERENCE,
    ),
    "inferences/runInstanceModelInference": RunRoute(
        "infer_instances",
        ("datasetId", "colorLayerName", "boundingBox", "newDatasetName"),
        ("aiModelId", "invertColorLayer", "seedGeneratorDistanceThreshold"),
        _INFERENCE,
    ),
}
"""Path below `/aiModels`, to which the newest clients post, and the command that it starts."""


def read_body(body: bytes) -> Json:
    """Read the arguments of routes that take JSON; those of the others lie in the query.

    Raises
    ------
    InvalidInput
        If there is a body that is not a JSON object.
    """
    if not body.strip():
        return {}
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON ({error}); send a JSON object") from error
    if not isinstance(given, dict):
        raise InvalidInput("the body is not a JSON object; send the arguments by name")
    return given
