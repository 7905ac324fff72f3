"""Arguments of commands, and which addresses belong to the face."""

from __future__ import annotations

import pytest

from voxelworks.errors import InvalidInput
from voxelworks.server.wk.commands import AI_ROUTES, FREE, PAID, RUN_ROUTES, read_body
from voxelworks.server.wk.paths import is_face, is_for_workers, is_open


def test_every_route_starts_a_known_command():
    assert {route.command for route in RUN_ROUTES.values()} <= FREE | PAID
    assert {route.command for route in AI_ROUTES.values()} <= PAID


@pytest.mark.parametrize(
    ("route", "given", "arguments"),
    [
        (
            "computeMeshFile",
            {"layerName": "seg", "mag": "4-4-1", "agglomerateView": "view", "other": 1},
            {"layer_name": "seg", "mag": "4-4-1", "agglomerate_view": "view"},
        ),
        ("computeSegmentIndexFile", {"layerName": "seg"}, {"segmentation_layer_name": "seg"}),
        (
            "inferMitochondria",
            {"layerName": "em", "bbox": "0,0,0,1,1,1", "newDatasetName": "mito"},
            {"layer_name": "em", "bbox": "0,0,0,1,1,1", "new_dataset_name": "mito"},
        ),
        (
            "materializeVolumeAnnotation",
            {
                "fallbackLayerName": "seg", "annotationId": "a", "annotationType": "Task", "newDatasetName": "n",
                "includesEditableMapping": "true", "mergeSegments": "false",
            },
            {
                "fallback_layer_name": "seg", "annotation_id": "a", "annotation_type": "Task", "new_dataset_name": "n",
                "use_zarr_streaming": "true", "merge_segments": "false",
            },
        ),
    ],
)  # fmt: skip
def test_arguments_get_their_names_of_the_job(route, given, arguments):
    assert RUN_ROUTES[route].arguments(given) == arguments


@pytest.mark.parametrize("given", [{}, {"layerName": ""}, {"layerName": None}, {"layername": "seg"}])
def test_missing_arguments_are_named(given):
    with pytest.raises(InvalidInput, match="layerName is missing"):
        RUN_ROUTES["findLargestSegmentId"].arguments(given)


@pytest.mark.parametrize(
    ("path", "of_face", "of_workers"),
    [
        ("/api/jobs", True, False),
        ("/api/v14/jobs", True, False),
        ("/api/v13/jobs/request", True, True),
        ("/api/jobs/0a/status", True, True),
        ("/api/jobs/status", True, False),
        ("/api/jobs/0a/attachVoxelyticsWorkflow", True, True),
        ("/api/jobs/0a/attachDatasetToInference", True, True),
        ("/api/jobs/0a/attachAnything", True, False),
        ("/api/jobs/0a/status/more", True, False),
        ("/api/v1/jobs", False, False),
        ("/api/v1/jobs/request", False, False),
        ("/api/v1", False, False),
        ("/jobs/request", False, False),
        ("/api", False, False),
    ],
)
def test_addresses_of_the_face(path, of_face, of_workers):
    assert (is_face(path), is_for_workers(path)) == (of_face, of_workers)


@pytest.mark.parametrize(
    ("method", "path", "open_"),
    [
        ("GET", "/api/buildinfo", True), ("GET", "/api/v14/buildinfo", True), ("POST", "/api/auth/login", True),
        ("GET", "/api/auth/login", False), ("GET", "/api/v1/buildinfo", False), ("POST", "/api/features", False),
        ("GET", "/api/user", False), ("GET", "/buildinfo", False), ("GET", "/api/v14/v13/buildinfo", False),
    ],
)  # fmt: skip
def test_what_everybody_may_ask(method, path, open_):
    assert is_open(method, path) == open_


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON (maximum recursion depth exceeded"),
        (b"[]", "the body is not a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(body, message):
    with pytest.raises(InvalidInput) as refused:
        read_body(body)
    assert str(refused.value).startswith(message)
