"""The official library of WEBKNOSSOS as a client of the face."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from .conftest import Face

SCRIPT = """
import json, sys
from webknossos.client.context import _get_context, webknossos_context

url, token, dataset_id = sys.argv[1:]
with webknossos_context(url=url, token=token):
    client = _get_context().api_client
    client.health()
    user = client.user_current()
    dataset = client.dataset_info(dataset_id=dataset_id)
    print(json.dumps({
        "version": client.webknossos_api_version,
        "user": [user.email, user.first_name, user.organization, user.is_admin],
        "id": client.dataset_id_from_name(directory_name="demo", organization_id="local"),
        "listed": [item.name for item in client.dataset_list(
            is_active=True, organization_id="local", name=None, folder_id=None
        ) if item.name == "demo"],
        "layers": [[layer.name, layer.category] for layer in dataset.data_source.data_layers],
        "voxel_size": list(dataset.data_source.scale.factor),
    }))
"""


@pytest.fixture
def official_python() -> str:
    python = os.environ.get("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON")
    if not python:
        pytest.skip("VOXELWORKS_TEST_WEBKNOSSOS_PYTHON (a Python with the webknossos library) is not set")
    return python


def test_the_official_library_reads_user_and_datasets(face: Face, official_python: str):
    done = subprocess.run(
        [official_python, "-c", SCRIPT, face.info.url, face.tokens["ada"], face.dataset_id],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "version": 14,
        "user": ["ada@example.org", "Ada", "local", True],
        "id": face.dataset_id,
        "listed": ["demo"],
        "layers": [["color", "color"], ["segmentation", "segmentation"]],
        "voxel_size": [4.0, 4.0, 40.0],
    }
