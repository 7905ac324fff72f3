from __future__ import annotations

from voxelworks.server.subjects import ParamGroup, ParamView, describe_params, subject, workflow_title

CONVERT = {
    "layers": [
        {"source": "root:a/raw", "layer_name": "color", "category": "color"},
        {"source": "root:a/labels", "layer_name": "segmentation", "category": "segmentation"},
    ],
    "target": "made", "voxel_size": "4,4,40", "fill_missing": False, "pyramid": False, "coarsest_mag": None,
}  # fmt: skip
REST = (
    ParamView("Part", "–", True), ParamView("Raw size", "–", True), ParamView("Raw dtype", "uint8", True),
    ParamView("Raw header bytes", "0", True), ParamView("Raw byte order", "little", True),
    ParamView("Raw axes", "xyz", True),
)  # fmt: skip


def test_a_job_is_about_what_it_makes_or_else_what_it_works_on():
    assert subject("convert", CONVERT) == "made"
    assert subject("downsample", {"layer": {"dataset": "demo", "layer": "color"}}) == "demo/color"
    assert subject("convert", {"layers": "nonsense"}) == ""
    assert subject("gone", {"x": 1}) == ""


def test_params_are_listed_with_defaults_marked():
    assert describe_params("convert", CONVERT) == [
        ParamGroup("Layer 1", (
            ParamView("Source", "root:a/raw", False), ParamView("Layer name", "color", False),
            ParamView("Category", "color", True), *REST,
        )),
        ParamGroup("Layer 2", (
            ParamView("Source", "root:a/labels", False), ParamView("Layer name", "segmentation", False),
            ParamView("Category", "segmentation", False), *REST,
        )),
        ParamGroup("Job", (
            ParamView("Target", "made", False), ParamView("Voxel size", "4,4,40", False),
            ParamView("Modality", "–", True), ParamView("Fill missing", "false", True),
            ParamView("Pyramid", "false", False),
            ParamView("Coarsest mag", "–", True),
        )),
    ]  # fmt: skip


def test_params_of_a_workflow_that_is_gone_are_shown_as_they_were_stored():
    assert describe_params("gone", {"some_value": [1, True]}) == [
        ParamGroup(None, (ParamView("Some value", "1, true", False),))
    ]
    assert workflow_title("gone_for_good") == "Gone for good"
