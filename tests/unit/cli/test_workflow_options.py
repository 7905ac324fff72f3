"""Options of the commands that are made from declarations."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from voxelworks.cli._workflow_options import WorkflowGroup
from voxelworks.protocol.messages import Json
from voxelworks.workflows import Workflow, workflows


def given(*arguments: str) -> tuple[str, Json, dict[str, Any]]:
    """Run a command line and give what its handler got."""
    got: list[tuple[str, Json, dict[str, Any]]] = []

    def handler(workflow: Workflow, raw: Json, options: dict[str, Any]) -> None:
        got.append((workflow.name, raw, options))

    group = WorkflowGroup("run", handler=handler, extra_options=(click.option("--loud", is_flag=True),))
    outcome = CliRunner().invoke(group, arguments, standalone_mode=False)
    if outcome.exception is not None:
        raise outcome.exception
    return got[0]


def test_a_layer_is_given_by_two_options() -> None:
    assert given(
        "downsample", "--dataset", "there/ds", "--layer", "color", "--method", "median", "--loud"
    ) == (
        "downsample",
        {"layer": {"dataset": "there/ds", "layer": "color"}, "method": "median"},
        {"loud": True},
    )


def test_repeated_options_make_several_layers() -> None:
    name, raw, _ = given(
        "convert", "--source", "a", "--layer-name", "color", "--source", "b", "--layer-name", "segmentation",
        "--category", "color", "--category", "segmentation", "--target", "ds", "--no-pyramid",
    )  # fmt: skip
    assert name == "convert"
    assert raw == {
        "layers": [
            {"source": "a", "layer_name": "color", "category": "color"},
            {"source": "b", "layer_name": "segmentation", "category": "segmentation"},
        ],
        "target": "ds",
        "pyramid": False,
    }


def test_a_flag_that_is_not_given_keeps_the_default_of_the_workflow() -> None:
    assert given("convert", "--source", "a", "--target", "ds")[1] == {
        "layers": [{"source": "a"}],
        "target": "ds",
    }


def test_a_missing_option_is_named() -> None:
    with pytest.raises(click.MissingParameter, match=r"Missing parameter: layer"):
        given("downsample", "--dataset", "ds")


@pytest.mark.parametrize("name", sorted(workflows()))
def test_every_workflow_explains_each_of_its_options(name: str) -> None:
    group = WorkflowGroup("run", handler=lambda *_: None, extra_options=())
    text = CliRunner().invoke(group, [name, "--help"]).output
    for field in workflows()[name].fields:
        assert field.option in text
        assert field.help
